"""Every stage of c2s keeps what `c2s.testing` asks of it."""

from __future__ import annotations

import pytest

from c2s.testing import StageContract
from c2s_pipeline.stages.registry import known

pytestmark = pytest.mark.slow


class TestOwn(StageContract):
    beside = ("labels",)

    @pytest.fixture(autouse=True, params=sorted(known()))
    def _one(self, request):
        self.one = request.param

    def reference(self):
        return self.one


class TestRandomViews(StageContract):
    """Two views of each row."""

    settings = {"count": 2}  # noqa: RUF012

    def reference(self):
        return "views"


class TestInt8(StageContract):
    settings = {"tier": "int8"}  # noqa: RUF012

    def reference(self):
        return "dense"
