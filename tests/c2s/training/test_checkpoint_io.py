"""The container of Lightning's checkpoints."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from c2s.runs.checkpoint import RunError
from c2s.runs.tensors import write_tensors
from c2s.training.checkpoint_io import SafetensorsIO, _join, _split, read_state

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text("ab", max_size=2),
    st.integers(0, 3).map(lambda n: torch.arange(n)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("ab/", max_size=2), inner, max_size=3),
        st.dictionaries(st.integers(0, 5), inner, max_size=3),
    ),
)


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(v, two[k]) for k, v in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


def checkpoint(step=3, **more):
    student = {"student.a": torch.ones(2), "method.b": torch.zeros(3)}
    state = {0: {"step": torch.tensor(3.0)}, 1: {}}
    return {
        "global_step": step,
        "state_dict": student,
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        **more,
    }


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=st.dictionaries(st.sampled_from("xyz"), trees, max_size=3))
def test_what_is_split_is_joined_again(tree):
    tensors = {}
    skeleton = json.loads(json.dumps(_split(tree, "", tensors)))
    assert same(tree, _join(skeleton, tensors))


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    io = SafetensorsIO()
    for step in (3, 4):
        io.save_checkpoint(checkpoint(step), tmp_path / "checkpoint")
    assert same(io.load_checkpoint(tmp_path / "checkpoint"), checkpoint(4))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["checkpoint"]
    io.remove_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(RunError, match="no checkpoint"):
        read_state(tmp_path)


def test_what_json_cannot_say_is_refused(tmp_path):
    with pytest.raises(TypeError):
        SafetensorsIO().save_checkpoint(checkpoint(odd=object()), tmp_path / "checkpoint")
    with pytest.raises(RunError, match="no checkpoint"):
        read_state(tmp_path)


@pytest.mark.parametrize("name", ["x.safetensors", ".x.safetensors.part"])
def test_a_pipe_is_never_replaced_by_tensors(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="no regular file"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    assert [f.name for f in tmp_path.iterdir() if f.is_fifo()] == [name]
