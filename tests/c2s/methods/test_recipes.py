"""Recipes: known by name, valid, and the paper's is what the defaults are."""

from __future__ import annotations

import pytest

from c2s.config import resolve
from c2s.methods.clip_to_seg import ClipToSegConfig
from c2s.methods.recipes import load_recipe, recipe_names
from c2s.runs.config import load_config
from c2s_cache import ConfigError
from c2s_pipeline.build.request import request_model


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_valid(name):
    recipe = load_recipe(name)
    load_config(defaults=recipe.train, cache="x")
    resolve(request_model(), recipe.build, None, (), {})


def test_the_paper_recipe_is_the_method_with_its_defaults():
    recipe = load_recipe("paper")
    assert ClipToSegConfig(**recipe.train["method"]) == ClipToSegConfig()
    assert recipe.build == {}


def test_the_best_recipe_keeps_what_the_paper_measured():
    """It fills in what the paper leaves open; where Tables VII, VIII, X and XI decide, they do."""
    method = load_recipe("best").train["method"]
    assert not method.keys() & {"generator", "calibration", "aggregation", "distillation"}
    assert "windows" not in load_recipe("best").build["masks"]


def test_without_a_name_nothing_changes():
    assert load_recipe(None).train == {}


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'bset'. Recipes of clip-to-seg: best, open, paper"):
        load_recipe("bset")
