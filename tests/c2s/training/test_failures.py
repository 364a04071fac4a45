"""A training that fails leaves its last finished iteration, and says how the run goes on."""

from __future__ import annotations

import multiprocessing

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file

from c2s.runs.checkpoint import RunError, saved_step
from c2s.training import run
from c2s.training.logs import read_metrics
from c2s.training.stream import BatchStream, _received
from c2s_cache.errors import CacheError

STEPS = 6


def settings(cache, runs, **more):
    options = {"student": "shapes-net", "iterations": STEPS, "checkpoint_every": 100, "ema": 0.9}
    return tiny_runs.settings(cache, runs, {"method": {"heads": 4}}, **(options | more))


class Failing(BatchStream):
    """A stream whose cache is found damaged after so many items; a loader process has it too."""

    after = 3

    def _batches(self):
        for number, batch in enumerate(super()._batches()):
            if number == self.after:
                raise CacheError("labels/data of block 1 has changed.", "Build it again.")
            yield batch


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.setattr("c2s.training.datamodule.BatchStream", Failing)


@pytest.fixture(scope="module")
def whole(tiny_views_cache, tmp_path_factory):
    return run.train(settings(tiny_views_cache, tmp_path_factory.mktemp("whole"), name="whole"))


def tensors(path):
    files = (path / "checkpoint" / f"{name}.safetensors" for name in ("student", "state"))
    return {f"{f.stem}/{k}": v for f in files for k, v in load_file(f).items()}


@pytest.mark.slow
def test_a_cache_that_changes_leaves_the_last_iteration(
    whole, failing, tiny_views_cache, tmp_path, monkeypatch
):
    message = r"block 1 has changed\. Build it again\. The checkpoint of iteration (2|3) .*--resume"
    with pytest.raises(CacheError, match=message):
        run.train(settings(tiny_views_cache, tmp_path, name="r"))
    path = tmp_path / "r"
    step = saved_step(path)
    assert step == len(read_metrics(path))  # all that was done
    monkeypatch.undo()
    ours, theirs = tensors(run.resume(path)), tensors(whole)
    assert ours.keys() == theirs.keys()
    assert [k for k in theirs if not torch.equal(ours[k], theirs[k])] == []


def test_an_error_inside_an_iteration_saves_none_of_it(
    failing, tiny_views_cache, tmp_path, monkeypatch
):
    """Statistics and the bank hold micro-batches already."""
    monkeypatch.setattr(Failing, "after", 5)
    config = settings(tiny_views_cache, tmp_path, name="r", accumulate=2, checkpoint_every=1)
    with pytest.raises(CacheError, match=r"The checkpoint of iteration 2 is kept"):
        run.train(config)
    assert saved_step(tmp_path / "r") == 2


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (0, r"Nothing was saved: start the run again\."),
        (1, r"Nothing was saved: start the run again\."),  # one is read ahead
        (2, r"The checkpoint of iteration 1 is kept\. Continue with: .*"),
    ],
)
def test_what_it_says_is_what_is_there(
    failing, tiny_views_cache, tmp_path, monkeypatch, after, message
):
    monkeypatch.setattr(Failing, "after", after)
    config = settings(tiny_views_cache, tmp_path, name="r")
    with pytest.raises(CacheError, match=rf"has changed\. Build it again\. {message}") as caught:
        run.train(config)
    assert (tmp_path / "r").exists() == ("--resume" in str(caught.value))
    monkeypatch.undo()
    run.train(config, overwrite=after == 2)


def test_a_run_killed_before_it_was_trained_is_not_in_the_way(
    tiny_views_cache, tmp_path, monkeypatch
):
    def killed(*arguments, **options):
        raise SystemExit

    config = settings(tiny_views_cache, tmp_path, name="r")
    monkeypatch.setattr("c2s.training.run.create_loggers", killed)
    monkeypatch.setattr("c2s.training.run.shutil.rmtree", lambda *a, **o: None)
    with pytest.raises(SystemExit):
        run.train(config)
    monkeypatch.undo()
    assert (tmp_path / "r/run.json").exists()
    assert saved_step(run.train(config)) == STEPS
    with pytest.raises(RunError, match="already holds a run"):
        run.train(config)


def test_two_hints_are_two_sentences(failing, tiny_views_cache, tmp_path, monkeypatch):
    """Also where the first ends with a command."""
    hint = "Build it again: c2s cache build --out x.zarr"

    def damaged(self):
        raise CacheError("It has changed.", hint)

    monkeypatch.setattr(Failing, "_batches", damaged)
    with pytest.raises(CacheError) as caught:
        run.train(settings(tiny_views_cache, tmp_path, name="r"))
    assert str(caught.value) == f"It has changed. {hint}. Nothing was saved: start the run again."


@pytest.mark.slow
def test_a_loader_process_says_it_in_one_sentence(failing, tiny_views_cache, tmp_path):
    before = set(multiprocessing.active_children())  # of other tests
    with pytest.raises(CacheError) as caught:
        run.train(settings(tiny_views_cache, tmp_path, name="r", workers=1))
    assert (
        set(multiprocessing.active_children()) <= before
    )  # though the error holds all that was under way
    assert caught.value.what == "labels/data of block 1 has changed."
    assert f"--resume {tmp_path / 'r'}" in str(caught.value)
    assert saved_step(tmp_path / "r") in (1, 2, 3)


def test_a_batch_that_a_killed_process_still_held_is_the_loss_of_that_process():
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.kill()

    class Items:
        _workers = (process,)

        def __next__(self):
            raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid {process.pid}\) exited"):
        next(_received(Items()))
    process.join()
    Items._workers = ()
    with pytest.raises(ConnectionResetError):
        next(_received(Items()))
