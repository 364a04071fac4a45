"""A process killed before any change that it makes to a cache: no receipt outlives its files, and nothing is lost."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from kill_points import kill_everywhere
from small_builds import contents
from tiny_cache import tiny_manifest, write_cache
from tiny_writes import (
    begin,
    block_data,
    change,
    changed_request,
    dense_request,
    grow,
    mend,
    repeat,
)

from c2s_cache import open_cache
from c2s_cache.integrity import verify
from c2s_cache.lock import build_lock
from c2s_cache.receipt import METADATA, load, parse
from c2s_cache.writer import BlockWriter, create_cache

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path):
    folder = tmp_path / "start"
    write_cache(folder / "a.zarr")
    return folder


def untrue(path: Path) -> list[str]:
    """Files that a receipt names and that are not there as it says."""
    wrong = []
    for file in path.glob("receipts/*/*.json"):
        receipt = parse(file.read_bytes(), str(file), file.parent.name, int(file.stem))
        for name, record in receipt.files.items():
            data = (path / name).read_bytes() if (path / name).is_file() else b""
            if hashlib.sha256(data).hexdigest() != record.sha256:
                wrong.append(name)
    return wrong


def test_a_cache_that_was_only_begun_is_begun_again(tmp_path):
    """And then made for a request with fewer arrays."""
    create_cache(tmp_path / "ours.zarr", tiny_manifest())
    ours = contents(tmp_path / "ours.zarr")
    (tmp_path / "start").mkdir()
    *begun, whole = kill_everywhere(begin, tmp_path / "start", tmp_path / "killed", 23)
    for path in begun:
        if load(path / "a.zarr", METADATA, 0) is not None:
            assert create_cache(path / "a.zarr", dense_request()) is not None
            assert contents(path) == contents(whole), path
        else:
            create_cache(path / "a.zarr", tiny_manifest())
            assert contents(path / "a.zarr") == ours, path
    assert len(begun) > 10


def test_a_task_that_runs_a_second_time_leaves_what_is_finished(start, tmp_path):
    before = contents(start)
    for path in kill_everywhere(repeat, start, tmp_path / "killed"):
        assert before.items() <= contents(path).items(), path
        assert verify(open_cache(path / "a.zarr")) == [], path
        with build_lock(path / "a.zarr"):
            pass
        assert contents(path) == before, path


@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_a_block_with_a_receipt_and_without_its_files_is_made_again(start, tmp_path, harm):
    shutil.copytree(start / "a.zarr", start / "whole.zarr")
    before = contents(start / "a.zarr")
    for stage in ("masks", "images", "regions"):
        receipt = load(start / "a.zarr", stage, 1)
        file = start / "a.zarr" / sorted(receipt.files)[0]
        if harm == "removed":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-1] if harm == "cut" else b"")
    assert BlockWriter(start / "a.zarr").missing(1) == ("images", "masks", "regions")
    known = set(untrue(start / "a.zarr"))
    assert len(known) == 3
    for path in kill_everywhere(mend, start, tmp_path / "killed", 7):
        assert set(untrue(path / "a.zarr")) <= known, path
        mend(path)
        assert contents(path / "a.zarr") == before, path


def test_a_cache_that_grows(start, tmp_path):
    """What is there stays as it is, and its receipts are true but for metadata while these are exchanged."""
    before = {n: d for n, d in contents(start).items() if not n.endswith("zarr.json")}
    before = {n: d for n, d in before.items() if METADATA not in n}
    *killed, whole = kill_everywhere(grow, start, tmp_path / "killed", 7)
    after = contents(whole)
    assert len(killed) > 30
    assert open_cache(whole / "a.zarr").manifest.rows == 15
    assert verify(open_cache(whole / "a.zarr")) == []
    for path in killed:
        assert untrue(path / "a.zarr") == [] or load(path / "a.zarr", METADATA, 0) is None, path
        assert contents(path).items() >= before.items(), path
        grow(path)
        assert contents(path) == after, path


def test_a_change_of_request_in_place(start, tmp_path):
    *killed, whole = kill_everywhere(change, start, tmp_path / "killed", 23)
    after = contents(whole / "a.zarr")
    assert verify(open_cache(whole / "a.zarr")) == []
    for path in killed:
        assert untrue(path / "a.zarr") == [], path
        with build_lock(path / "a.zarr") as token:
            create_cache(path / "a.zarr", changed_request(), update=True)
            writer = BlockWriter(path / "a.zarr", token)
            for block in range(3):
                for stage in writer.missing(block):
                    writer.write(stage, block, block_data(start / "a.zarr", stage, block))
        assert contents(path / "a.zarr") == after, path
