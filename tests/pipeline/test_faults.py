"""Failures of the machine during a build, with real processes: one sentence, an exit code, resumable."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import make_coco_tree
from pictures import photo

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import open_cache
from c2s_cache.integrity import verify
from c2s_pipeline.build import build
from c2s_pipeline.request import BuildRequest

pytestmark = pytest.mark.slow
SETTINGS = {"block_rows": 2, "batch_size": 2, "view_size": 32, "masks": {"windows": (2, 3)}}


def contents(path: Path) -> dict[str, bytes]:
    found = (f for f in path.rglob("*") if f.is_file() and f.name != "provenance.jsonl")
    return {str(f.relative_to(path)): f.read_bytes() for f in found}


@pytest.fixture(scope="module")
def reference(tiny_teacher, scheduler, tmp_path_factory):
    """A data set of six photos, one of them large, and the cache of an undisturbed build."""
    root = make_coco_tree(tmp_path_factory.mktemp("data") / "coco_stuff164k", count=6)
    photo(np.random.default_rng(0), 400, 500).save(
        root / "images/train2017/000000000002.jpg", quality=100
    )
    labels = root / "stuffthingmaps_trainval2017/train2017/000000000002.png"
    from PIL import Image

    Image.open(labels).resize((500, 400), Image.Resampling.NEAREST).save(labels)
    source = FolderSplit(DESCRIPTOR, root, "train")
    out = tmp_path_factory.mktemp("out") / "coco.zarr"
    build(source, BuildRequest(teacher=tiny_teacher, **SETTINGS), out, scheduler=scheduler)
    assert verify(open_cache(out)) == []
    return out, root


@pytest.fixture
def start(reference, tiny_teacher, tmp_path):
    """Start `c2s cache build` in a process group of its own."""
    arguments = ("cache", "build", "--dataset", "coco-stuff", "--root", str(reference[1]))
    options = ("--teacher", tiny_teacher, "--block-rows", "2", "--batch-size", "2")
    settings = ("--set", "masks.windows=[2,3]", "--set", "view_size=32")
    out = ("--out", str(tmp_path / "coco.zarr"))
    command = [sys.executable, "-c", "from c2s.cli import main; main()", *arguments, *options]
    return partial(
        subprocess.Popen,
        [*command, *settings, *out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


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
    os.killpg(process.pid, signal.SIGINT)
    code, err = finish(process)
    assert code == 130, err
    assert "interrupted: run the same command again to resume." in err

    ended = [finish(process) for process in (start(), start())]
    assert sorted(code for code, _ in ended) in ([0, 0], [0, 1])
    assert all(code == 0 or "another process is building" in err for code, err in ended)
    assert contents(out) == contents(reference[0])
    assert verify(open_cache(out)) == []
