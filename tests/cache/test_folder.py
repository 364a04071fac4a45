"""A cache in an object store is read like one on a disk: opened, verified, trained from, refused."""

from __future__ import annotations

import json
import re
import threading

import fsspec
import numpy as np
import pytest
from tiny_cache import PATHS, write_cache
from typer.testing import CliRunner

from c2s.cli.app import app
from c2s_cache import Cache, CacheError, DamagedError, open_cache
from c2s_cache.folder import Folder
from c2s_cache.integrity import Content, verify

MEMORY = "memory://bucket/tiny.zarr"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache") / "tiny.zarr", views=2)


@pytest.fixture(params=["memory", "file"])
def url(request, path, tmp_path):
    """The cache, copied to a URL of fsspec's."""
    target = MEMORY if request.param == "memory" else f"file://{tmp_path}/tiny.zarr"
    files, root = fsspec.core.url_to_fs(target)
    files.put(str(path), root, recursive=True)
    yield target
    files.rm(root, recursive=True)


def test_it_holds_what_was_copied(path, url):
    here, there = open_cache(path), open_cache(url)
    assert there.manifest == here.manifest
    assert there.receipts == here.receipts
    assert there.quarantine == here.quarantine
    for block in range(here.blocks):
        ours, theirs = here.read_block(block, PATHS), there.read_block(block, PATHS)
        assert ours.arrays.keys() == theirs.arrays.keys()
        for name, values in ours.arrays.items():
            np.testing.assert_array_equal(theirs.arrays[name], values)
    assert verify(there) == []


def test_damage_is_found_there_too(url):
    files, root = fsspec.core.url_to_fs(url)
    shard = f"{root}/regions/cls/c/1/0/0"
    data = bytearray(files.cat_file(shard))
    data[len(data) // 2] ^= 1
    files.pipe_file(shard, bytes(data))
    files.pipe_file(f"{root}/masks/stray", b"left over")
    open_cache(url)
    assert sorted((f.check, f.where) for f in verify(Cache(url))) == [
        ("checksum", "regions/cls/c/1/0/0"),
        ("structure", "masks/stray"),
    ]
    files.pipe_file(shard, bytes(data[:-1]))
    with pytest.raises(CacheError, match=r"regions/cls/c/1/0/0 is missing or has the wrong size"):
        open_cache(url)
    files.rm_file(f"{root}/receipts/masks/000001.json")
    with pytest.raises(CacheError, match="is incomplete"):
        open_cache(url)


def test_commands_take_a_url(url):
    run = CliRunner().invoke(app, ["cache", "info", url, "--json"])
    facts = json.loads(run.stdout)
    assert (facts["path"], facts["complete"]) == (url, True)
    run = CliRunner().invoke(app, ["cache", "verify", url, "--quick", "--json"])
    assert (run.exit_code, json.loads(run.stdout)["sound"]) == (0, True)


def items(value):
    return value if isinstance(value, (list, tuple)) else [value]


def test_batches_are_those_of_the_disk(path, url):
    from c2s.methods.clip_to_seg import ClipToSegConfig
    from c2s.training.sampler import BatchSequence
    from c2s.training.stream import BatchStream, block_sizes

    sequence = BatchSequence(block_sizes(Cache(path)), 4, seed=3, shuffle_blocks=2, views=2)
    examples = ClipToSegConfig().examples(Cache(path).manifest)
    here, there = (list(BatchStream(a, sequence, examples, 0, 5, 32, True)) for a in (path, url))
    assert len(here) == 5
    for ours, theirs in zip(here, there, strict=True):
        assert vars(ours).keys() == vars(theirs).keys()
        for name, values in vars(ours).items():
            for a, b in zip(items(values), items(vars(theirs)[name]), strict=True):
                np.testing.assert_array_equal(a, b)


def test_what_needs_a_disk_says_so():
    files, root = fsspec.core.url_to_fs(MEMORY)
    with pytest.raises(CacheError, match="is not a c2s cache"):
        open_cache(MEMORY)
    assert not files.exists(root)
    with pytest.raises(CacheError, match="nosuch://a/b cannot be read: Protocol not known"):
        Folder("nosuch://a/b")


def test_a_remote_cache_has_no_path(path):
    files, root = fsspec.core.url_to_fs(MEMORY)
    files.put(str(path), root, recursive=True)
    with pytest.raises(CacheError, match="is not on this machine"):
        _ = Cache(MEMORY).path
    files.rm(root, recursive=True)


class ClientError(Exception):
    """As the clients of stores have them: of no common kind."""


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        PermissionError("Forbidden"),
        TimeoutError(),
        ClientError("Unable to locate credentials\nand more"),
        RuntimeError("Response payload is not completed"),
    ],
)
def test_a_store_that_cannot_be_reached_is_one_sentence(path, monkeypatch, error):
    from fsspec.implementations.memory import MemoryFileSystem

    files, root = fsspec.core.url_to_fs(MEMORY)
    files.put(str(path), root, recursive=True)
    opened = open_cache(MEMORY)

    def fail(*_, **__):
        raise error

    for name in ("cat_file", "_open", "find", "ls"):
        monkeypatch.setattr(MemoryFileSystem, name, fail)
    why = str(error).splitlines()[0] if str(error) else "TimeoutError"
    for use in (
        lambda: open_cache(MEMORY),
        lambda: opened.read_block(0, PATHS),
        lambda: opened.once("text/embeddings"),
        lambda: verify(opened),
        lambda: opened.folder.sizes(),
        lambda: opened.folder.list("receipts/masks"),
        lambda: opened.folder.digest("zarr.json"),
    ):
        with pytest.raises(
            CacheError, match=f"{MEMORY}.* cannot be read: .*{re.escape(why)}"
        ) as caught:
            use()
        assert "credentials" in str(caught.value)
        assert "\n" not in str(caught.value)
    for command in (["info"], ["verify", "--quick"]):
        run = CliRunner().invoke(app, ["cache", *command, MEMORY])
        assert isinstance(run.exception, CacheError)
    monkeypatch.undo()
    files.rm(root, recursive=True)


def test_what_arrives_damaged_is_not_used(url):
    cache = open_cache(url)
    files, root = fsspec.core.url_to_fs(url)
    name = "global_cls/cls/c/0/0/0"
    data = bytearray(files.cat_file(f"{root}/{name}"))
    data[len(data) // 2] ^= 4
    files.pipe_file(f"{root}/{name}", bytes(data))
    with pytest.raises(DamagedError, match=f"block 0 of {url} .*{name} differs from its receipt"):
        cache.read_block(0, PATHS)
    files.rm_file(f"{root}/{name}")
    with pytest.raises(DamagedError, match=f"{name} is missing"):
        cache.read_block(0, PATHS)


def test_many_files_of_a_store_are_read_at_once(path, monkeypatch):
    """The first one to arrive waits for a second."""
    from fsspec.implementations.memory import MemoryFileSystem

    files, root = fsspec.core.url_to_fs(MEMORY)
    files.put(str(path), root, recursive=True)
    cat_file = MemoryFileSystem.cat_file
    under_way, second = [], threading.Event()

    def waiting(self, name, *args, **kwargs):
        if "/c/" in name and not second.is_set():
            under_way.append(name)
            if len(under_way) > 1:
                second.set()
            assert second.wait(60)
        return cat_file(self, name, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", waiting)
    assert verify(Cache(MEMORY), Content(frozenset(PATHS))) == []
    assert second.is_set()
    files.rm(root, recursive=True)
