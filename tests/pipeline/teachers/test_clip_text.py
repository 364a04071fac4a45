"""A text tower that is loaded alone gives, bit for bit, what it gives in the whole model."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from conftest import TINY_MODEL
from safetensors.torch import save_file

from c2s_cache import C2SError
from c2s_pipeline.teachers import clip_text
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher, load_text_encoder

WORDS = ["a photo of a cat", "sky", "There is the thing in the scene."]


def write(folder, suffix, **changes):
    """A folder of a tiny model of that configuration, its weights in a file of that kind."""
    config = TINY_MODEL | changes
    custom = config.pop("custom_text", False)
    torch.manual_seed(0)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    if suffix == "safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        old = {} if suffix == "pth" else {"_use_new_zipfile_serialization": False}
        torch.save(state, folder / "model.pth", **old)
    facts = {"model_cfg": TINY_MODEL | changes}
    (folder / "open_clip_config.json").write_text(json.dumps(facts))
    return f"local-dir:{folder}"


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "old"])
@pytest.mark.parametrize("changes", [{}, {"quick_gelu": True}, {"custom_text": True}], ids=str)
def test_alone_it_is_the_same(tmp_path, suffix, changes, monkeypatch):
    spec = TeacherSpec(write(tmp_path, suffix, **changes))
    whole = load_teacher(spec)
    want = whole.text.embed_text(WORDS)
    monkeypatch.setattr(clip_text, "create_model", None)  # the whole model is not made
    alone = load_text_encoder(spec)
    assert torch.equal(alone.embed_text(WORDS), want)
    assert alone.digest == whole.info().text_digest


def test_values_that_a_file_replaces_are_not_drawn():
    before = torch.get_rng_state()
    with clip_text._Undrawn():
        layer = torch.nn.Linear(4, 4)
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.trunc_normal_(torch.nn.Embedding(4, 4).weight)
    assert torch.equal(torch.get_rng_state(), before)
    torch.nn.init.normal_(layer.weight)
    assert not torch.equal(torch.get_rng_state(), before)


def test_nothing_of_the_image_tower_is_held(tmp_path):
    alone = load_text_encoder(TeacherSpec(write(tmp_path, "safetensors")))
    names = dict(alone._model.named_parameters())
    assert names
    assert not [name for name in names if name.startswith("visual.")]
    assert not any(p.requires_grad for p in names.values())
    assert not alone._model.training


def test_random_weights_are_those_of_the_whole_model(tiny_name):
    spec = TeacherSpec(tiny_name, "random")
    alone, whole = load_text_encoder(spec), load_teacher(spec)
    assert torch.equal(alone.embed_text(WORDS), whole.text.embed_text(WORDS))
    assert alone.digest == whole.info().text_digest
    assert not [n for n, _ in alone._model.named_parameters() if n.startswith("visual.")]


@pytest.mark.parametrize("lost", ["ln_final.bias", "ln_final.other"])
def test_weights_of_another_text_tower_are_refused(tmp_path, lost):
    spec = TeacherSpec(write(tmp_path, "pth"))
    state = torch.load(tmp_path / "model.pth")
    if lost in state:
        del state[lost]
    else:
        state[lost] = torch.zeros(1)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(C2SError, match=f"are not those of the text tower .*{lost}"):
        load_text_encoder(spec)


def test_a_file_that_is_none_is_one_sentence(tmp_path):
    name = write(tmp_path, "pth")
    (tmp_path / "model.pth").write_bytes(b"nothing")
    with pytest.raises(C2SError, match="is no file of weights") as caught:
        load_text_encoder(TeacherSpec(name))
    assert "\n" not in str(caught.value)
