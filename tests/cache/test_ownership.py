"""Only what carries our own mark is removed; whatever else stands in the way is named and stays."""

from __future__ import annotations

import json

import pytest
import zarr
from small_builds import contents
from tiny_cache import tiny_manifest, write_cache
from tiny_writes import dense_request

from c2s_cache import Cache, CacheError, open_cache
from c2s_cache.integrity import verify
from c2s_cache.lock import LOCK, OWNER, build_lock
from c2s_cache.ownership import Mark, NotOurs
from c2s_cache.writer import STAGING, create_cache

RUN = Mark("a run", "run.json", ("dataset", "fingerprints"))


def tree(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*"))


def test_a_folder_with_our_mark_is_removed_whole(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "weights").write_text("precious")
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"dataset": "x", "fingerprints": {}, "more": 1}))
    (run / "checkpoint/state.json").write_text("{}")
    (run / "linked").symlink_to(kept)
    assert RUN.on(run)
    RUN.remove(run)
    assert tree(tmp_path) == ["kept", "kept/weights"]


@pytest.mark.parametrize("mark", [None, "", "null", "[]", "{", '{"dataset": 1}', "[" * 5000])
def test_a_folder_without_it_stays(tmp_path, mark):
    (tmp_path / "mine/inner").mkdir(parents=True)
    if mark is not None:
        (tmp_path / "mine/run.json").write_text(mark)
    before = tree(tmp_path)
    with pytest.raises(NotOurs, match="is not a run of ours \\(it holds inner"):
        RUN.remove(tmp_path / "mine")
    assert tree(tmp_path) == before


def test_a_link_to_ours_and_a_file_stay(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text('{"dataset": 1, "fingerprints": 1}')
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "file").write_text("")
    before = tree(tmp_path)
    for name, what in (("link", "a symbolic link to run"), ("file", "a file")):
        with pytest.raises(NotOurs, match=what):
            RUN.remove(tmp_path / name)
    assert tree(tmp_path) == before
    (tmp_path / "empty").mkdir()
    RUN.remove(tmp_path / "empty")  # of a run that was killed before it wrote anything
    assert tree(tmp_path) == before


def foreign_group(path):
    zarr.open_group(path, mode="w").create_array("x", shape=(4,), dtype="int8")


def foreign_json(path):
    path.mkdir()
    (path / "zarr.json").write_text('{"attributes": {"c2s": null}}')


def foreign_inner(path):
    (path / "a/b").mkdir(parents=True)
    (path / "a/b/zarr.json").write_text("{}")


def foreign_metadata(path):
    (path / ".metadata").mkdir(parents=True)
    (path / ".metadata/zarr.json").write_text("{}")


def foreign_empty_folders(path):
    (path / "images/later").mkdir(parents=True)


def foreign_file(path):
    path.write_text("mine")


FOREIGN = (
    foreign_group,
    foreign_json,
    foreign_inner,
    foreign_metadata,
    foreign_empty_folders,
    foreign_file,
)


@pytest.mark.parametrize("make", FOREIGN)
def test_no_cache_is_made_in_a_foreign_folder(tmp_path, make):
    manifest = Cache(write_cache(tmp_path / "whole.zarr")).manifest
    path = tmp_path / "mine"
    make(path)
    before = contents(tmp_path), tree(tmp_path)
    with pytest.raises(CacheError, match=r"mine is not a c2s cache \(.+\), so nothing is built"):
        create_cache(path, manifest)
    assert (contents(tmp_path), tree(tmp_path)) == before


def test_an_empty_folder_is_filled_and_not_made_anew(tmp_path, monkeypatch):
    manifest = Cache(write_cache(tmp_path / "whole.zarr")).manifest
    path = tmp_path / "mine"
    path.mkdir(mode=0o700)
    before = path.stat()
    monkeypatch.chdir(path)
    with build_lock(path):
        create_cache(path, manifest)
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)
    assert Cache(path).manifest == manifest


def test_what_a_killed_build_leaves_is_no_finding(tmp_path):
    path = write_cache(tmp_path / "a.zarr")
    (path / LOCK).touch()
    (path / OWNER).write_text("0" * 32)
    assert verify(open_cache(path)) == []
    with build_lock(path):
        assert create_cache(path, Cache(path).manifest) is not None
    assert {f.name for f in path.iterdir()} & {LOCK, OWNER, STAGING} == set()


def test_a_cache_whose_first_receipt_was_being_written_is_only_begun(tmp_path):
    path = tmp_path / "a.zarr"
    create_cache(path, tiny_manifest())
    receipt = path / "receipts/metadata/000000.json"
    receipt.rename(receipt.with_name(f".{receipt.name}.part"))
    (path / ".c2s-metadata").mkdir()
    assert create_cache(path, dense_request()) is None
