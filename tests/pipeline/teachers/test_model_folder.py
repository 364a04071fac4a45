"""A model that comes as a folder brings numbers and words, and no code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import tiny_towers
import torch
from conftest import TINY_MODEL

from c2s_cache import C2SError, ConfigError
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.model_folder import load_tokenizer, trial_tokenizer
from c2s_pipeline.teachers.registry import load_teacher

CODE = """
from pathlib import Path
Path({ran!r}).touch()
from transformers import BertTokenizer, BertConfig
class Own(BertTokenizer): pass
class OwnConfig(BertConfig): model_type = "own"
"""


@pytest.fixture
def folder(tiny_teacher, tmp_path):
    """A copy of the tiny teacher whose configuration a test changes, and a Python file beside it."""
    source = Path(tiny_teacher.removeprefix("local-dir:"))
    weights = "open_clip_model.safetensors"
    (tmp_path / weights).symlink_to(source / weights)
    (tmp_path / "own.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n")

    def make(**changes):
        config = {**TINY_MODEL, **{k: {**TINY_MODEL[k], **v} for k, v in changes.items()}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        return f"local-dir:{tmp_path}"

    make.path = tmp_path
    return make


def refused(name: str, folder: Path, message: str) -> None:
    with pytest.raises(C2SError, match=message) as caught:
        load_teacher(TeacherSpec(name)).text.embed_text(["cat"])
    assert "\n" not in str(caught.value)
    assert not (folder / "ran").exists()


def write_tokenizer(folder: Path, **more) -> None:
    settings = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "own", **settings}))


@pytest.mark.parametrize(
    "settings",
    [{"trust_remote_code": True}, {"reduction_mask": "syntax"}, {"bpe_path": "/etc/passwd"}],
)
def test_settings_that_reach_past_open_clip_are_refused(folder, settings):
    write_tokenizer(folder.path)
    name = folder(text_cfg={"hf_tokenizer_name": "own", "tokenizer_kwargs": settings})
    refused(name, folder.path, f"sets {next(iter(settings))}; of a model")
    with pytest.raises(ConfigError, match="no code is run"):
        load_tokenizer(name)


def test_a_tokenizer_of_the_folders_own_is_refused_without_a_question(folder, monkeypatch):
    write_tokenizer(folder.path, tokenizer_class="Own")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    refused(folder(text_cfg={"hf_tokenizer_name": "own"}), folder.path, "tokenizer of teacher")


def test_a_text_tower_with_code_is_refused_without_a_question(folder, monkeypatch):
    auto = {"AutoConfig": "own.OwnConfig"}
    (folder.path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    name = folder(text_cfg={"hf_model_name": str(folder.path)})
    refused(name, folder.path, "its text tower")
    (folder.path / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": auto}))
    refused(name, folder.path, "brings Python code of its own, which is never run")


def test_an_image_tower_of_timm_is_refused_before_it_is_made(folder):
    refused(
        folder(vision_cfg={"timm_model_name": "hf-hub:a/b"}),
        folder.path,
        "image tower 'hf-hub:a/b', which timm does not have",
    )


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "x", '{"model_cfg": {"vision_cfg": [], "text_cfg": {}}}', "\xff", "[" * 9999],
)
def test_a_damaged_configuration_is_one_sentence(tmp_path, text):
    (tmp_path / "open_clip_config.json").write_bytes(text.encode("latin-1"))
    refused(f"local-dir:{tmp_path}", tmp_path, "is no configuration of an open_clip model")


@pytest.mark.parametrize("part", ["vision_cfg", "text_cfg"])
def test_a_setting_that_open_clip_does_not_know_is_one_sentence(folder, part):
    refused(folder(**{part: {"nonsense": 1}}), folder.path, "cannot be loaded.*nonsense")


def test_settings_of_open_clips_own_act(folder):
    name = folder(text_cfg={"tokenizer_kwargs": {"clean": "canonicalize"}})
    plain, cleaned = load_tokenizer("ViT-B-16"), load_tokenizer(name)
    assert cleaned(["Cat, dog!"]).tolist() == plain(["cat dog"]).tolist()


def test_a_text_tower_that_asks_for_a_kernel_of_the_hub_is_refused(folder):
    settings = {"model_type": "bert", "attn_implementation": "someone/kernel"}
    (folder.path / "config.json").write_text(json.dumps(settings))
    name = folder(text_cfg={"hf_model_name": str(folder.path)})
    refused(name, folder.path, "brings Python code of its own")


def test_a_folder_without_its_tokenizer_is_told_what_to_hold(folder):
    """open_clip looks for it in the folder alone."""
    (folder.path / "vocab.txt").unlink()
    name = folder(text_cfg={"hf_tokenizer_name": "bert-base-uncased"})
    refused(name, folder.path, rf"tokenizer\.json and the like\) must lie in {folder.path}")


def test_a_text_tower_that_is_nowhere_is_named_with_the_way_to_it(folder, monkeypatch):
    monkeypatch.setattr("c2s_cache.hub.hub_answers", lambda: False)
    monkeypatch.setattr("c2s_pipeline.teachers.model_folder.hub_answers", lambda: False)
    name = folder(text_cfg={"hf_model_name": "someone/tower"})
    refused(name, folder.path, r"someone/tower is not on this machine, .*hf download someone/tower")


def test_random_weights_need_no_tokenizer_of_the_hub(monkeypatch):
    """Sentences differ, and each is of the model's own length and vocabulary."""
    monkeypatch.setattr("c2s_pipeline.teachers.clip_text.load_tokenizer", None)
    monkeypatch.setattr("c2s_pipeline.teachers.model_folder.load_tokenizer", lambda name: "own")
    tokens = trial_tokenizer("ViT-B-16-SigLIP")(["a photo of a cat", "a photo of a tree"])
    assert tokens.shape == (2, 64)
    assert int(tokens.max()) < 32000
    assert not (tokens[0] == tokens[1]).all()
    assert trial_tokenizer("ViT-B-16") == "own"


class Runs:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("family", tiny_towers.configurations())
@pytest.mark.parametrize("plain", [True, False])
def test_weights_of_no_family_are_unpickled(family, plain, tmp_path):
    """A pickle and a checkpoint of torch, in the places where open_clip looks for weights."""
    config = {"model_cfg": tiny_towers.configurations()[family], "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    for file in ("open_clip_pytorch_model.bin", "open_clip_model.pth", "model.pt"):
        if plain:
            (tmp_path / file).write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
        else:
            torch.save({"state_dict": {"logit_scale": Runs(tmp_path / "ran")}}, tmp_path / file)
    (tmp_path / "own.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    refused(f"local-dir:{tmp_path}", tmp_path, "Other pickled objects are never made")
