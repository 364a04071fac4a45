"""Every stage of c2s keeps what `c2s.testing` asks of it."""

from __future__ import annotations

import pytest
from moving_frames import Frames

from c2s.testing import StageContract, shapes
from c2s_pipeline.stages.registry import known

pytestmark = pytest.mark.slow


class TestOwn(StageContract):
    beside = ("labels",)

    @pytest.fixture(autouse=True, params=sorted(known().keys() - {"clips"}))
    def _one(self, request):
        self.one = request.param

    def reference(self):
        return self.one


class TestClips(StageContract):
    """Of the few data sets that have any."""

    beside = ("labels", "instances")

    @pytest.fixture(autouse=True)
    def _moving(self, monkeypatch):
        monkeypatch.setattr(shapes, "scenes", Frames)

    def reference(self):
        return "clips"


class TestRandomViews(StageContract):
    """Two views of each row."""

    settings = {"count": 2}  # noqa: RUF012

    def reference(self):
        return "views"


class TestInt8(StageContract):
    settings = {"tier": "int8"}  # noqa: RUF012

    def reference(self):
        return "dense"
