"""A run's own files of tensors are used as they were saved, or not at all."""

from __future__ import annotations

import pytest
import tiny_runs

from c2s.runs.checkpoint import RunError
from c2s.runs.run import open_run
from c2s.training import run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "checkpoint/student", "checkpoint/state"])
def test_a_flipped_bit_is_noticed(tiny_cache, tmp_path, name):
    config = tiny_runs.settings(tiny_cache, tmp_path, iterations=2, name="r")
    path = run.train(config)
    file = path / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # of a float: another value, and a finite one
    file.write_bytes(content)
    message = rf"{name}\.safetensors is not the file that was saved"
    if name != "checkpoint/state":  # only what goes on reads it
        with pytest.raises(RunError, match=message):
            open_run(path)
    if name != "text":  # what goes on has the cache's
        with pytest.raises(RunError, match=message):
            run.resume(path, iterations=4)


@pytest.mark.slow
def test_settings_that_a_complete_run_cannot_follow_are_refused(tiny_cache, tmp_path):
    path = run.train(tiny_runs.settings(tiny_cache, tmp_path, iterations=2, name="r"))
    assert run.resume(path) == path
    with pytest.raises(RunError, match=r"is complete, so lr .+ -> 0\.5 would have no effect"):
        run.resume(path, settings=["lr=0.5"])
