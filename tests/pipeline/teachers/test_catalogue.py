"""What teachers there are and what they are like is told from their configurations."""

from __future__ import annotations

import json

import open_clip
import pytest
import tiny_towers
import tiny_transformers
import torch
from typer.testing import CliRunner

from c2s.cli.app import app
from c2s_cache import ConfigError
from c2s_pipeline.teachers import clip_model
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.catalogue import card, catalogue, licence
from c2s_pipeline.teachers.open_clip_teacher import tower_of
from c2s_pipeline.teachers.registry import load_teacher

TINY = tuple(tiny_towers.configurations())


def own_entries():
    """Those of open_clip itself, whatever tests have added."""
    return [entry for entry in catalogue() if not entry.name.startswith("tiny")]


def test_nearly_all_models_are_accepted_and_each_other_says_why(monkeypatch):
    """By its configuration alone: nothing is made."""
    monkeypatch.setattr(open_clip, "create_model", None)
    entries = own_entries()
    assert {e.name for e in entries} == {
        n for n in open_clip.list_models() if not n.startswith("tiny")
    }
    refused = [entry for entry in entries if not entry.accepted]
    assert len(entries) - len(refused) >= 140
    assert {e.name for e in refused} == {"convnext_large_d", "convnext_large_d_320"}
    for entry in refused:
        assert entry.family is None
        assert entry.why.count(". ") == 0
        assert entry.why.endswith(".")
        with pytest.raises(ConfigError, match="not linear"):
            load_teacher(TeacherSpec(entry.name, "random"))


@pytest.mark.parametrize("name", TINY)
def test_a_card_is_what_the_loaded_teacher_says(name):
    shown, teacher = card(name), load_teacher(TeacherSpec(name, "random"))
    info = teacher.info()
    assert (shown.dim, shown.image_size, shown.grid) == (info.dim, info.image_size, info.grid)
    assert (shown.resize_mode, shown.interpolation) == (info.resize_mode, info.interpolation)
    assert shown.variants == teacher.tower.variants
    assert shown.family == tower_of(name).family
    weights = list(teacher._model.visual.parameters())
    assert shown.parameters == sum(w.numel() for w in weights)
    others = sum(w.numel() for w in teacher._model.parameters())
    assert shown.text_parameters == others - shown.parameters
    assert shown.gflops >= 0


@pytest.mark.parametrize("kind", tiny_transformers.KINDS)
def test_a_folder_of_transformers_has_a_card(kind, tmp_path):
    name = tiny_transformers.folder(kind, tmp_path)
    shown, info = card(name), load_teacher(TeacherSpec(name)).info()
    assert (shown.dim, shown.image_size, shown.grid) == (info.dim, info.image_size, info.grid)
    assert shown.resize_mode == info.resize_mode


def test_no_weights_are_made_for_a_card(monkeypatch):
    """ViT-bigG has ten gigabytes of them."""
    made, create = [], open_clip.create_model

    def watched(*args, **options):
        made.append(create(*args, **options))
        return made[-1]

    monkeypatch.setattr(open_clip, "create_model", watched)
    shown = card("ViT-bigG-14")
    assert shown.parameters == pytest.approx(1.845e9, rel=0.01)
    assert shown.gflops == pytest.approx(483.96, rel=0.01)
    assert made
    for model in made:
        assert all(weights.is_meta for weights in model.parameters())


@pytest.mark.parametrize(
    ("name", "dim", "size", "parameters", "gflops", "told"),
    [
        ("ViT-B-16", 512, 224, 86.2e6, 17.58, {"openai": "MIT", "metaclip_fullcc": "CC-BY-NC-4.0"}),
        ("RN50", 1024, 224, 38.3e6, 6.12, {"openai": "MIT", "yfcc15m": None}),
        ("PE-Core-T-16-384", 512, 384, 6.2e6, None, {"meta": "Apache-2.0"}),
    ],
)
def test_cards_of_known_models(name, dim, size, parameters, gflops, told):
    """Parameters and GFLOPs as open_clip's own table of profiles has them."""
    shown = card(name)
    assert (shown.dim, shown.image_size) == (dim, size)
    assert shown.parameters == pytest.approx(parameters, rel=0.01)
    assert gflops is None or shown.gflops == pytest.approx(gflops, rel=0.01)
    assert told.items() <= shown.weights.items()


@pytest.mark.slow
@pytest.mark.parametrize("entry", own_entries()[::8], ids=lambda entry: entry.name)
def test_what_is_accepted_can_be_made(entry):
    """With a dense pass that has the shape that its card tells; on the meta device."""
    if not entry.accepted:
        return
    shown = card(entry.name)
    from c2s_pipeline.teachers.open_clip_teacher import blank_towers

    tower = blank_towers(entry.name)[0]
    side = shown.grid[0] * shown.patch_size
    tower = tower if side == shown.image_size else tower.at(side)
    with torch.device("meta"), torch.inference_mode():
        for variant in tower.variants:
            cls, dense = tower.cls_and_dense(torch.zeros(1, 3, side, side), variant)
            assert cls.shape == (1, shown.dim)
            assert dense.shape == (1, shown.grid[0] ** 2, tower.dense_dim(variant))


def test_a_text_tower_that_is_not_here_is_not_counted(monkeypatch):
    monkeypatch.setattr("c2s_cache.hub.hub_answers", lambda: False)
    monkeypatch.setattr(clip_model, "hub_answers", lambda: False)
    shown = card("xlm-roberta-base-ViT-B-32")
    assert shown.text_parameters is None
    assert shown.parameters == pytest.approx(87.8e6, rel=0.01)


def test_licences_go_by_the_model_or_else_by_the_tag():
    assert licence("ViT-B-16", "laion2b_s34b_b88k") == "MIT"
    assert licence("ViT-B-16", "dfn2b") == "Apple AMLR"
    assert licence("ViT-B-16-SigLIP2", "webli") == "Apache-2.0"
    assert licence("MobileCLIP-S1", "datacompdr") == "Apple AMLR"
    assert licence("nllb-clip-base-siglip", "v1") == "CC-BY-NC-4.0"
    assert licence("RN50", "cc12m") is None


def test_the_command_lists_one_object_a_model():
    said = CliRunner().invoke(app, ["teachers", "list", "--json"])
    entries = json.loads(said.stdout)
    assert set(entries[0]) == {"name", "family", "accepted", "why"}
    assert sum(e["accepted"] for e in entries if not e["name"].startswith("tiny")) >= 140
    lines = CliRunner().invoke(app, ["teachers", "list"]).stdout.splitlines()
    assert len(lines) == len(entries)


def test_the_command_shows_any_teacher():
    said = CliRunner().invoke(app, ["teachers", "show", "tiny_pe", "--json"])
    facts = json.loads(said.stdout)
    assert facts["grid"] == [4, 4]
    assert facts["variants"][:2] == ["plain", "pooled"]
    said = CliRunner().invoke(app, ["teachers", "show", "python:plain_teacher:Colours"])
    assert "image_size        16\n" in said.stdout
    assert "parameters        not known\n" in said.stdout
    refused = CliRunner().invoke(app, ["teachers", "show", "convnext_large_d"])
    assert isinstance(refused.exception, ConfigError)
