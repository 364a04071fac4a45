"""Grids from YAML."""

from __future__ import annotations

import pytest
import yaml

from c2s.methods.grid import read_grid
from c2s_cache import ConfigError


def write(path, **content):
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_grid_is_read(tmp_path):
    rows = [{"name": "a"}, {"name": "b", "train": {"method": {"tau": 0.1}}}]
    grid = read_grid(write(tmp_path / "tau.yaml", rows=rows, seeds=3, students=["segformer-b0"]))
    assert (grid.name, grid.seeds, grid.students) == ("tau", 3, ("segformer-b0",))
    assert grid.rows[1].train == {"method": {"tau": "0.1"}}  # as written, for the model of a run
    assert grid.rows[0].paper is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rows": [{"name": "a", "trian": {}}]}, r"unknown key 'rows.0.trian'"),
        ({"rows": []}, "rows"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows have the name 'a'"),
        ({"rows": [{"name": "a"}], "name": "../x"}, "name"),
    ],
)
def test_a_wrong_grid_is_refused_in_one_sentence(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        read_grid(write(tmp_path / "g.yaml", **content))
