"""Threads and loader processes change nothing about batches, end with them, and lose none."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import shutil
import threading
import time

import pytest
from stream_batches import EXAMPLES, batches, equal, sequence
from tiny_cache import write_cache
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import c2s.training.stream as stream_module
from c2s.runs.config import TrainConfig
from c2s.training.stream import BatchStream, _ahead, loader, view_cache_bytes
from c2s_cache import C2SError, DamagedError, UnreadableImage, open_cache
from c2s_cache.semaphores import named


def test_the_memory_for_views_is_shared_by_all_loader_processes_of_a_machine():
    def config(**fields):
        return TrainConfig(cache="x", view_cache_gib=1.0, **fields)

    assert view_cache_bytes(config(workers=0)) == view_cache_bytes(config(workers=1)) == 2**30
    assert view_cache_bytes(config(workers=4, devices=2)) == 2**30 // 8


@pytest.mark.slow
def test_worker_processes_change_nothing(cache):
    alone = batches(cache)
    for workers in (1, 2):
        assert all(map(equal, alone, batches(cache, workers)))


def test_the_next_batch_is_made_while_one_is_used(cache):
    made = []

    def items():
        for number in range(3):
            made.append((number, threading.current_thread().name))
            yield number
        raise UnreadableImage("the fourth")

    stream = _ahead(items())
    assert next(stream) == 0
    wait_until(lambda: len(made) == 2)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(UnreadableImage, match="the fourth"):
        next(stream)
    assert all(name.startswith("loader") for _, name in made)


def test_a_stream_that_is_left_ends_its_thread(cache):
    stream = iter(BatchStream(str(cache.path), sequence(cache), EXAMPLES, 0, 5, 32, True))
    next(stream)
    before = {t.name for t in threading.enumerate()}
    stream.close()
    assert any(name.startswith("loader") for name in before)
    assert not any(t.name.startswith("loader") for t in threading.enumerate())


@pytest.mark.slow
def test_an_iteration_that_is_left_ends_its_processes(tiny_cache, monkeypatch, capfd):
    """While its semaphores have their names: a process that is still starting opens them by name. The garbage
    collector removes the names before anything else."""
    kept = []

    def end(items):
        if not items._shutdown:
            kept.append(set(named()) - before)
        shutdown(items)

    shutdown = _MultiProcessingDataLoaderIter._shutdown_workers
    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_shutdown_workers", end)
    cache = open_cache(tiny_cache)
    batches = loader(BatchStream(str(cache), sequence(cache), EXAMPLES, 0, 5, 32, False), 2, False)
    before, others = set(named()), set(multiprocessing.active_children())
    circle = [iter(batches)]
    next(circle[0])  # the first of two processes has started
    opened = set(named()) - before
    circle.append(circle)
    del circle
    gc.collect()
    assert opened
    assert kept == [opened]
    assert set(multiprocessing.active_children()) <= others
    assert not stream_module._RUNNING
    assert "Traceback" not in capfd.readouterr().err


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come true")


@pytest.mark.slow
def test_a_cache_that_is_another_one_in_the_loader_is_refused(tiny_cache, tmp_path):
    """A loader process opens it by its address, perhaps long after the run did."""
    cache = open_cache(write_cache(tmp_path / "one.zarr"))
    stream = pickle.loads(
        pickle.dumps(BatchStream(cache, sequence(cache), EXAMPLES, 0, 1, 32, False))
    )
    assert len(list(stream)) == 1
    shutil.rmtree(cache.path)
    write_cache(cache.path, seed=1)
    with pytest.raises(DamagedError, match="has changed since it was opened"):
        list(stream)


@pytest.mark.slow
def test_batches_that_get_lost_are_an_error(tiny_cache, monkeypatch):
    """A trainer whose loader ends too soon would begin it anew, for ever."""
    stream = BatchStream(
        str(tiny_cache), sequence(open_cache(tiny_cache)), EXAMPLES, 0, 5, 32, False
    )
    assert stream.batches == len(list(loader(stream, 0, False))) == 5
    monkeypatch.setattr(BatchStream, "batches", 6)
    with pytest.raises(C2SError, match="given 5 of 6 batches"):
        list(loader(stream, 0, False))


@pytest.mark.slow
def test_what_a_worker_meets_arrives_as_it_is(tmp_path):
    cache = open_cache(write_cache(tmp_path / "one.zarr"))
    for file in (cache.path / "masks/grid/c/1").rglob("*"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DamagedError) as caught:
        batches(cache, workers=2)
    said = f"block 1 of {cache} cannot be read: masks/grid/c/1/0/0/0 differs from its receipt."
    assert caught.value.what == said
    assert caught.value.hint == f"See what is damaged with: c2s cache verify {cache} --quick"
