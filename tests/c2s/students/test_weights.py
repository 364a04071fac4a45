"""Checkpoints: files, wrappers, folders, the hub; rules of a layout; what is refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from c2s.students.weights import Layout, load_encoder, own_layout, read_checkpoint
from c2s_cache.errors import ConfigError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Trap:
    """Would run code if it were unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_a_checkpoint_is_a_file_of_either_kind_or_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "old").mkdir()
    save_file(TENSORS, tmp_path / "a.safetensors")
    save_file(TENSORS, tmp_path / "folder" / "model.safetensors")
    torch.save(TENSORS, tmp_path / "old" / "pytorch_model.bin")
    torch.save(TENSORS, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": TENSORS, "epoch": 3}, tmp_path / "b.pth")
    torch.save({"model": TENSORS, "args": [1]}, tmp_path / "c.pth")
    for name in ("a.safetensors", "folder", "old", "legacy.pth", "b.pth", "c.pth"):
        state = read_checkpoint(tmp_path / name)
        assert state.keys() == TENSORS.keys(), name
        assert all(torch.equal(state[k], TENSORS[k]) for k in TENSORS), name


@pytest.mark.parametrize(
    "kind", ["object", "plain pickle", "text", "cut safetensors", "cut zip", "misnamed"]
)
def test_what_is_no_checkpoint_is_refused_and_never_unpickled(kind, tmp_path):
    path = tmp_path / "weights.pth"
    if kind == "object":
        torch.save({"state_dict": TENSORS, "trap": Trap()}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(Trap(), protocol=2))
    elif kind == "text":
        path.write_text("no weights")
    elif kind == "misnamed":
        path = tmp_path / "weights.safetensors"
        torch.save(TENSORS, path)
    elif kind == "cut zip":
        torch.save(TENSORS, path)
        path.write_bytes(path.read_bytes()[:-200])
    else:
        save_file(TENSORS, path)
        path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ConfigError, match=r"weights\.(pth|safetensors) are (neither|damaged)"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "data", [b"", b"a: \xe9\n", b"x", b"\x80\x02.", bytes(range(256)), b"PK\x03\x04"]
)
def test_what_is_no_checkpoint_is_one_sentence(tmp_path, data):
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(ConfigError, match=r"weights .*w are neither safetensors nor a checkpoint"):
        read_checkpoint(tmp_path / "w")


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    for name in ("none.pth", "", "deeper/still/none"):
        with pytest.raises(ConfigError, match=r"There are no encoder weights at"):
            read_checkpoint(tmp_path / name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no file nobody/nothing, and the Hugging Face hub"):
        read_checkpoint("nobody/nothing")


LAYOUT = Layout(
    "theirs",
    (
        (r"first\.(.+)", r"a.\1"),
        (r"([qkv])\.w", r"qkv.w"),
        (r"part(\d)\.w", r"joined.w@\1"),
        (r"both\.(\w)", (r"one.\1", r"two.\1", r"three.\1")),
    ),
)


@given(st.permutations([0, 1, 2]), st.integers(1, 4))
def test_parts_are_joined_in_their_order_and_wholes_are_cut_evenly(order, rows):
    parts = torch.arange(3.0 * rows).reshape(3, rows, 1)
    state = {f"module.backbone.part{n}.w": parts[n] for n in order}
    state |= {"both.w": parts.reshape(-1, 1), "head.w": parts}
    renamed = LAYOUT.rename(state)
    assert torch.equal(renamed.pop("joined.w"), parts.reshape(-1, 1))
    for name, part in zip(("one", "two", "three"), parts, strict=True):
        assert torch.equal(renamed[f"{name}.w"], part)
    assert len(renamed) == 3  # the head is left out


def encoder():
    return nn.ModuleDict({"a": nn.Conv2d(3, 2, 1), "norm": nn.BatchNorm2d(2)})


NORM = {f"norm.{k}": torch.ones(2) for k in ("weight", "bias", "running_mean", "running_var")}


def test_linear_layers_fill_convolutions_and_counters_may_be_missing(tmp_path):
    save_file(TENSORS | NORM, tmp_path / "w.safetensors")
    filled = encoder()
    load_encoder(filled, tmp_path / "w.safetensors", (own_layout("a", "norm"),))
    assert torch.equal(filled["a"].weight[:, :, 0, 0], TENSORS["a.weight"])
    assert torch.equal(filled["norm"].running_mean, torch.ones(2))
    counted = TENSORS | NORM | {"norm.num_batches_tracked": torch.tensor(7)}
    save_file(counted, tmp_path / "w.safetensors")
    load_encoder(filled, tmp_path / "w.safetensors", (own_layout("a", "norm"),))
    assert filled["norm"].num_batches_tracked.item() == 7


def test_the_layout_that_matches_most_keys_is_taken(tmp_path):
    state = {f"first.{k}": v for k, v in (("weight", TENSORS["a.weight"]), ("bias", torch.ones(2)))}
    save_file(state | {"a.weight": torch.zeros(2, 3)}, tmp_path / "w.safetensors")
    filled = nn.ModuleDict({"a": nn.Linear(3, 2)})
    load_encoder(filled, tmp_path / "w.safetensors", (own_layout("a"), LAYOUT))
    assert torch.equal(filled["a"].weight, TENSORS["a.weight"])


def test_the_first_parameter_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    layouts = (own_layout("a", "norm"),)
    save_file(NORM | {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(2)}, path)
    with pytest.raises(
        ConfigError, match=r"1 of 6 .*first a\.weight \(expected \(2, 3, 1, 1\), got"
    ):
        load_encoder(encoder(), path, layouts)
    save_file({"a.weight": torch.zeros(2, 3, 1, 1)} | NORM, path)
    with pytest.raises(ConfigError, match=r"first a\.bias \(expected \(2,\), got nothing"):
        load_encoder(encoder(), path, layouts)
    save_file({"b.weight": torch.zeros(2)}, path)
    with pytest.raises(ConfigError, match=r"none of the layouts .*\(c2s\); .*first key is 'b\.w"):
        load_encoder(encoder(), path, layouts)
