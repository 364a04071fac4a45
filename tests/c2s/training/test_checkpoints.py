"""The checkpoint of a finished run that was edited, half written, cut short, damaged or of an earlier format."""

from __future__ import annotations

import pytest
from tiny_runs import STEPS

from c2s.runs.checkpoint import RunError, saved_step
from c2s.runs.folder import read_config
from c2s.runs.run import open_run
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.training import checkpoint_io, run


def test_a_state_that_was_touched_is_not_continued(finished):
    """Not only what cannot be read: a single figure in it decides what is learnt."""
    file = finished / "checkpoint" / "state.json"
    content = file.read_text()
    try:
        for was, now in ((f'"step": {STEPS}', '"step": 4'), ("0.9", "0.8"), ("0.9", "NaN")):
            assert was in content
            file.write_text(content.replace(was, now, 1))
            for use in (open_run, run.resume):
                with pytest.raises(
                    RunError, match=r"state\.json is damaged or was edited\. Train it again: c2s"
                ):
                    use(finished)
    finally:
        file.write_text(content)


def test_an_existing_run_is_never_replaced_silently(finished, tiny_views_cache):
    config = read_config(finished)
    with pytest.raises(RunError, match=r"already holds a run.*--overwrite"):
        run.train(config)
    state = finished / "checkpoint" / "state.json"
    content = state.read_text()
    try:
        write_sealed(state, read_sealed(state) | {"step": 2})
        with pytest.raises(RunError, match=r"--resume"):
            run.train(config)
    finally:
        state.write_text(content)


@pytest.mark.parametrize("survivor", ["checkpoint.new", "checkpoint.old"])
def test_a_swap_that_was_cut_short_still_has_a_checkpoint(finished, survivor):
    current = finished / "checkpoint"
    current.rename(finished / survivor)
    try:
        assert saved_step(finished) == STEPS
        assert checkpoint_io.read_state(finished).step == STEPS
    finally:
        (finished / survivor).rename(current)


def test_a_half_written_checkpoint_is_not_taken(finished):
    new = finished / "checkpoint.new"
    new.mkdir()
    try:
        (new / "student.safetensors").write_bytes(b"half")
        assert checkpoint_io.read_state(finished).step == STEPS
    finally:
        (new / "student.safetensors").unlink()
        new.rmdir()


def test_a_checkpoint_of_an_earlier_format_is_not_continued(finished):
    file = finished / "checkpoint" / "state.json"
    content = file.read_text()
    try:
        write_sealed(file, {"format": 1, "step": 2})
        with pytest.raises(RunError, match=r"format 1, expected 2: it can be evaluated"):
            run.resume(finished)
        assert open_run(finished).step == 2
    finally:
        file.write_text(content)


def test_damaged_weights_are_one_sentence(finished):
    file = finished / "checkpoint" / "student.safetensors"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:100])
        with pytest.raises(RunError, match=r"student.safetensors is not the file that was saved"):
            open_run(finished)
    finally:
        file.write_bytes(content)
