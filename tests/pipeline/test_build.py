"""Building end to end with real workers: resume, damage, refusal, kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import distributed
import numpy as np
import pytest
from small_builds import contents, request

from c2s_cache import C2SError, CacheError, ConfigError, MismatchError, open_cache
from c2s_cache.integrity import verify
from c2s_pipeline.build.builder import build as build_cache
from c2s_pipeline.build.derive import derive
from c2s_pipeline.build.request import recorded_request
from c2s_pipeline.build.resources import Resources


def test_building_again_does_nothing(build, any_built, tiny_teacher):
    out, source, views = any_built
    before = contents(out)
    report = build(source, request(tiny_teacher, views=views), out)
    assert (report.built, report.reused) == (0, 5)
    assert contents(out) == before


def test_a_lost_block_is_rebuilt_to_the_same_bytes(build, any_built, tiny_teacher, tmp_path):
    out, source, views = any_built
    copy = tmp_path / "copy.zarr"
    shutil.copytree(out, copy)
    before = contents(copy)
    (copy / "receipts/regions/000001.json").unlink()
    (copy / "regions/cls/c/1/0/0").write_bytes(b"half written")
    (copy / "regions/cls/c/1/7").mkdir()
    (copy / "regions/cls/c/1/7/0").write_bytes(b"left over")
    with pytest.raises(CacheError, match="incomplete: 21 of 22 block stages"):
        open_cache(copy)
    (copy / "receipts/views/000002.json").unlink()
    report = build(source, request(tiny_teacher, views=views), copy)
    assert (report.built, report.reused) == (3, 2)
    assert contents(copy) == before


def test_another_request_is_refused_with_the_difference(build, built, tiny_teacher):
    out, source = built
    before = contents(out)
    with pytest.raises(MismatchError, match=r"  masks\.threshold: 0\.9 -> 0\.5"):
        build(source, request(tiny_teacher, masks={"windows": (2, 3), "threshold": 0.5}), out)
    assert contents(out) == before


KILLED = """
import sys
from pathlib import Path
from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.request import request_model

if __name__ == "__main__":
    root, out, request = sys.argv[1:]
    build(FolderSplit(DESCRIPTOR, Path(root), "train"), request_model().model_validate_json(request), Path(out))
"""


@pytest.mark.slow
def test_killed_builds_resume_to_the_same_bytes(build, any_built, tiny_teacher, tmp_path):
    """SIGKILL the whole process group at several moments, resume, compare every byte."""
    reference, source, views = any_built
    wanted = request(tiny_teacher, views=views)
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    out = tmp_path / "coco.zarr"
    arguments = [str(source.root), str(out), wanted.model_dump_json()]
    rng = np.random.default_rng(views)
    kills = 0
    for kill in range(1, 5):
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments], start_new_session=True
        )
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(out.glob("receipts/*/*.json"))) >= 4 * kill - 2:
                time.sleep(float(rng.random()) * 0.05)
                break
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    final = build(source, wanted, out)
    assert final.rows == 5
    assert contents(out) == contents(reference)
    assert verify(open_cache(out)) == []


@pytest.mark.slow
def test_processes_that_build_do_not_decide_the_bytes(any_built, tiny_teacher, tmp_path):
    """One process of several lanes built the first; here are two, started by the build itself."""
    out, source, views = any_built
    again = tmp_path / "again.zarr"
    build_cache(source, request(tiny_teacher, views=views), again, workers=2)
    assert contents(again) == contents(out)


def test_two_builders_on_one_cache(build, source, tiny_teacher, tmp_path):
    from c2s_cache.lock import build_lock

    out = tmp_path / "coco.zarr"
    with build_lock(out), pytest.raises(CacheError, match="another process is building"):
        build(source, request(tiny_teacher), out)


def test_target_that_is_something_else(build, source, tiny_teacher, tmp_path):
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(CacheError, match="is not a c2s cache"):
        build(source, request(tiny_teacher), tmp_path)
    assert (tmp_path / "file.txt").read_text() == "mine"


def test_workers_that_die_repeatedly_are_one_sentence(
    build, built, tiny_teacher, tmp_path, monkeypatch
):
    def die(*_):
        raise distributed.scheduler.KilledWorker("build_block", None, 3)

    monkeypatch.setattr("c2s_pipeline.build.builder.run_all", die)
    with pytest.raises(C2SError, match=r"a worker process died repeatedly") as caught:
        build(built[1], request(tiny_teacher), tmp_path / "c.zarr")
    assert "resume, with fewer --workers; or build another cache with" in caught.value.hint


def test_a_scheduler_that_is_named_is_asked_also_if_nothing_is_to_be_done(
    built, tiny_teacher, tmp_path, monkeypatch
):
    def nobody(address, timeout):
        raise OSError(f"timed out trying to connect to {address}")

    out, source = built
    monkeypatch.setattr(distributed, "Client", nobody)
    same, machine = request(tiny_teacher), Resources(scheduler="nosuch")
    for act in (
        lambda: build_cache(source, same, out, scheduler="nosuch"),
        lambda: derive(out, recorded_request(open_cache(out).manifest), tmp_path / "d", machine),
    ):
        with pytest.raises(ConfigError, match="no Dask scheduler answers at nosuch"):
            act()
    assert not (tmp_path / "d").exists()
    build_cache(source, same, out)
