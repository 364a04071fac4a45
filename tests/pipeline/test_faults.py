"""Failures of the machine during a build, with real processes: one sentence, an exit code, resumable."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import psutil
import pytest
from conftest import make_coco_tree
from pictures import photo
from PIL import Image
from small_builds import contents, made

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import C2SError, Cache, open_cache
from c2s_cache.integrity import verify
from c2s_cache.lock import OWNER
from c2s_pipeline.build import dispatch
from c2s_pipeline.build.builder import build

pytestmark = pytest.mark.slow
SETTINGS = {"block_rows": 2, "batch_size": 2, "view_size": 32, "masks": {"windows": (2, 3)}}


@pytest.fixture(scope="module")
def reference(tiny_teacher, scheduler, tmp_path_factory):
    """A data set of six photos too large for the disk of a test, and the cache of an undisturbed build."""
    root = make_coco_tree(tmp_path_factory.mktemp("data") / "coco_stuff164k", count=6)
    for image in sorted((root / "images/train2017").iterdir()):
        photo(np.random.default_rng(0), 400, 500).save(image, quality=100)
        labels = root / f"stuffthingmaps_trainval2017/train2017/{image.stem}.png"
        Image.open(labels).resize((500, 400), Image.Resampling.NEAREST).save(labels)
    source = FolderSplit(DESCRIPTOR, root, "train")
    out = tmp_path_factory.mktemp("out") / "coco.zarr"
    build(source, made(teacher=tiny_teacher, **SETTINGS), out, scheduler=scheduler)
    assert verify(open_cache(out)) == []
    return out, root


@pytest.fixture
def source(reference):
    return FolderSplit(DESCRIPTOR, reference[1], "train")


@pytest.fixture
def request_of_all(tiny_teacher):
    return made(teacher=tiny_teacher, **SETTINGS)


@pytest.fixture
def start(reference, tiny_teacher, tmp_path):
    """Start `c2s cache build` in a process group of its own."""
    arguments = ("cache", "build", "--dataset", "coco-stuff", "--root", str(reference[1]))
    options = ("--teacher", tiny_teacher, "--block-rows", "2", "--batch-size", "2")
    settings = ("--set", "masks.windows=[2,3]", "--set", "view_size=32")
    out = ("--out", str(tmp_path / "coco.zarr"))
    command = [sys.executable, "-c", "from c2s.cli import main; main()", *arguments, *options]

    started = []

    def run(*more: str, **how: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [*command, *settings, *out, *more], **pipes, start_new_session=True, **how
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:  # its test failed
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=400)
    assert "Traceback" not in err, err
    return process.returncode, err


def wait_for_receipts(out: Path, process: subprocess.Popen[str], count: int) -> None:
    while process.poll() is None and len(list(out.glob("receipts/*/*.json"))) < count:
        time.sleep(0.02)


def test_a_full_disk_ctrl_c_and_two_builders(start, reference, tmp_path):
    """One after the other on one cache, which is then finished and equals the undisturbed one."""
    out = tmp_path / "coco.zarr"

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    code, err = finish(start(preexec_fn=no_large_files))
    assert code == 1
    assert f"error: {out} cannot be written: File too large." in err
    assert "run the same command again to resume" in err

    process = start()
    wait_for_receipts(out, process, len(list(out.glob("receipts/*/*.json"))) + 2)
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGCONT):  # or the build may be faster
        os.killpg(process.pid, number)
    code, err = finish(process)
    assert code == 130, err
    assert "interrupted: run the same command again to resume." in err

    ended = [finish(process) for process in (start(), start())]
    assert sorted(code for code, _ in ended) in ([0, 0], [0, 1])
    assert all(code == 0 or "another process is building" in err for code, err in ended)
    assert contents(out) == contents(reference[0])
    assert verify(open_cache(out)) == []


def obey_permissions() -> None:
    """Root passes over them; without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH it does not."""
    drop_from_bounding_set, libc = 24, ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_a_read_only_target_and_lost_permission(
    start, reference, source, request_of_all, scheduler, tmp_path
):
    out = tmp_path / "coco.zarr"
    sentence = f"error: {out} cannot be written: Permission denied."
    tmp_path.chmod(0o555)
    code, err = finish(start(preexec_fn=obey_permissions))
    tmp_path.chmod(0o755)
    assert code == 1, err
    assert sentence in err
    assert not out.exists()

    process = start(preexec_fn=obey_permissions)
    wait_for_receipts(out, process, 3)
    os.killpg(process.pid, signal.SIGSTOP)
    folders = [out, *(f for f in out.rglob("*") if f.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    os.killpg(process.pid, signal.SIGCONT)
    code, err = finish(process)
    for folder in folders:
        folder.chmod(0o755)
    assert code == 1, err
    assert sentence in err
    assert "run the same command again to resume" in err

    build(source, request_of_all, out, scheduler=scheduler)
    assert contents(out) == contents(reference[0])
    assert verify(open_cache(out)) == []


@pytest.fixture
def foreign(tmp_path):
    """A Dask cluster of other processes: a client, its only worker, and its scheduler."""
    module, file = "distributed.cli.dask_{}", tmp_path / "scheduler.json"
    common = ("--scheduler-file", str(file), "--no-dashboard")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = [sys.executable, "-m"]
    scheduler = subprocess.Popen(
        [*run, module.format("scheduler"), "--port", "0", *common], **quiet
    )
    options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path))
    worker = subprocess.Popen([*run, module.format("worker"), *options, *common], **quiet)
    with distributed.Client(scheduler_file=str(file), timeout="120s") as client:
        client.wait_for_workers(1, timeout=120)
        yield client, worker, scheduler
    for process in (worker, scheduler):
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@contextlib.contextmanager
def halted(worker: subprocess.Popen[bytes], out: Path) -> Iterator[None]:
    """Halt a worker at the moment when it is about to write a stage, until the end of the block."""
    owner = out / OWNER
    wait_until(lambda: owner.exists() and owner.read_text() != "")
    with owner.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        wait_until(lambda: opened(worker.pid, owner))  # and asks for the lock again and again
        worker.send_signal(signal.SIGSTOP)
        wait_until(lambda: states(worker.pid) == {"T"})
    yield
    worker.send_signal(signal.SIGCONT)


def opened(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            if handle.samefile(path):
                return True
    return False


def states(pid: int) -> set[str]:
    """States of a process' threads; T is stopped."""
    stats = (file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/stat"))
    return {stat.rpartition(")")[2].split()[0] for stat in stats}


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_outlives_its_builder(
    start, source, foreign, scheduler, tiny_teacher, tmp_path
):
    """It wakes up in the middle of a block when the cache is another build's, of another request."""
    client, worker, _ = foreign
    out = tmp_path / "coco.zarr"
    masks = {"windows": (2, 3), "threshold": 0.5}
    request = made(teacher=tiny_teacher, **(SETTINGS | {"masks": masks}))
    builder = start("--scheduler", client.scheduler.address)
    with halted(worker, out):
        os.killpg(builder.pid, signal.SIGKILL)
        builder.communicate()
        build(source, request, out, scheduler=scheduler, update=True)
        whole = contents(out)
        assert verify(open_cache(out)) == []
    client.submit(os.getpid, pure=False).result(timeout=200)  # it waits for the block under way
    assert contents(out) == whole
    assert Cache(out).manifest.stage("masks").settings["threshold"] == 0.5


def test_a_halted_worker_is_named_and_the_build_ends(
    reference, source, foreign, request_of_all, tmp_path, monkeypatch
):
    client, worker, _ = foreign
    out, address = tmp_path / "coco.zarr", client.scheduler.address
    name = next(iter(client.scheduler_info()["workers"]))
    monkeypatch.setattr(dispatch, "INTERVAL", 1.0)
    monkeypatch.setattr(dispatch, "PATIENCE", 15)
    worker.send_signal(signal.SIGSTOP)
    with pytest.raises(C2SError, match=f"worker {name} did not answer for 15 s .* End it"):
        build(source, request_of_all, out, scheduler=address)
    worker.send_signal(signal.SIGCONT)
    monkeypatch.undo()
    build(source, request_of_all, out, scheduler=address)
    assert contents(out) == contents(reference[0])


@pytest.mark.parametrize("which", ["worker", "scheduler"])
def test_a_worker_or_scheduler_that_is_gone(
    reference, source, foreign, request_of_all, scheduler, tmp_path, monkeypatch, which
):
    shared = scheduler
    client, worker, scheduler = foreign
    out, address = tmp_path / "coco.zarr", client.scheduler.address
    monkeypatch.setattr(dispatch, "LOOKS", 3)

    def kill() -> None:
        wait_until(lambda: len(list(out.glob("receipts/*/*.json"))) > 3)
        (worker if which == "worker" else scheduler).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    says = "has no workers left" if which == "worker" else "scheduler .*(ended|does not answer)"
    with pytest.raises(C2SError, match=says):
        build(source, request_of_all, out, scheduler=address)
    killer.join()
    build(source, request_of_all, out, scheduler=shared)
    assert contents(out) == contents(reference[0])


def children(process: subprocess.Popen[str]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children() if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def test_ctrl_c_while_the_workers_start(start):
    process = start()
    wait_until(lambda: children(process) != [])
    os.killpg(process.pid, signal.SIGINT)
    code, err = finish(process)
    assert code == 130, err
    assert "interrupted: run the same command again to resume." in err


def test_a_worker_that_is_killed_while_it_starts(
    start, reference, source, request_of_all, scheduler, tmp_path
):
    """Dask starts another, or gives up: then in a sentence."""
    process = start()
    wait_until(lambda: children(process) != [])
    os.kill(children(process)[0], signal.SIGKILL)
    code, err = finish(process)
    assert code == 0 or (code == 1 and "worker processes could not be started" in err), err
    build(source, request_of_all, tmp_path / "coco.zarr", scheduler=scheduler)
    assert contents(tmp_path / "coco.zarr") == contents(reference[0])
