"""The paper's tables: every number is the paper's, every row a valid configuration."""

from __future__ import annotations

import re

import pytest

from c2s.methods.gkc.config import GKCConfig
from c2s.methods.gkc.tables import TABLES
from c2s.methods.grid import SCORES, Grid, Row
from c2s.methods.recipes import load_recipe
from c2s.methods.registry import method_config


@pytest.fixture(scope="module")
def printed(shared_data):
    """All numbers with a point of the paper's text."""
    paper = shared_data.parent / "papers/gkc.txt"
    if not paper.is_file():
        pytest.skip("the paper's text is not beside this checkout")
    return set(re.findall(r"\d+\.\d+", paper.read_text()))


@pytest.mark.parametrize("name", TABLES)
def test_the_numbers_are_those_of_the_paper(name, printed):
    for row in TABLES[name].rows:
        for value in row.paper or ():
            assert printed & {f"{value:.2f}", f"{value:.1f}"}, (row.name, value)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_configuration_of_its_own(name):
    found = []
    for row in TABLES[name].rows:
        config = method_config({"name": "gkc", **row.train.get("method", {})})
        assert isinstance(config, GKCConfig)
        found.append((str(config), row.train.get("student")))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", ["paper", "code", "best"])
def test_recipes_are_configurations(name):
    recipe = load_recipe(name, "gkc")
    config = method_config({"name": "gkc", **recipe.train["method"]})
    assert config.weights.distillation == {"paper": 2, "code": 10, "best": 10}[name]


def test_columns_are_those_of_the_data_sets_that_were_scored():
    grid = TABLES["4"]
    assert grid.shown(()) == SCORES
    assert grid.shown(("cityscapes",)) == (*SCORES, "mIoU@cityscapes")
    assert grid.shown(("shapes-renamed", "context")) == (
        *SCORES,
        "mIoU@context",
        "mIoU@shapes-renamed",
    )
    with pytest.raises(ValueError, match="row 'a' has 3 figures of the paper for 1 columns"):
        Grid(name="x", columns=("mIoU@context",), rows=(Row(name="a", paper=(1, 2, 3)),))
