"""Every data set of the Shapes world has its teacher and its student."""

from __future__ import annotations

import pytest

from c2s.datasets.registry import NAMES
from c2s.methods.registry import run_defaults
from c2s.shapes.defaults import TEACHER, build_defaults

WORLD = [name for name in NAMES if name.startswith("shapes")]


@pytest.mark.parametrize("name", WORLD)
def test_a_data_set_of_the_world_has_its_teacher_and_student(name):
    assert build_defaults(name, None)["teacher"] == TEACHER
    assert run_defaults("clip-to-seg", name, None)["student"] == "shapes-net"
    assert build_defaults(name, "ViT-B-16") == {}


def test_the_world_is_of_five_data_sets():
    assert len(WORLD) == 5
