"""Nothing that is read of a cache is unchecked: flipped bits, exchanged, missing, stray and changed files."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from tiny_cache import PATHS, tiny_manifest, write_cache

from c2s.cli.cache_report import describe
from c2s_cache import Cache, CacheError, DamagedError, open_cache
from c2s_cache.integrity import verify
from c2s_cache.manifest import USABLE
from c2s_cache.schema import array_specs
from c2s_cache.writer import BlockWriter, create_cache

ENDS = {p: array.end for p, array in tiny_manifest().arrays.items() if array.end is not None}
USED = sorted({*PATHS, USABLE, *(ENDS[p] for p in PATHS if p in ENDS)})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache") / "tiny.zarr", views=2)


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "copy.zarr")


def files_of(cache, array, block=0):
    found = cache / array / "c" / str(block)
    return [found] if found.is_file() else sorted(f for f in found.rglob("*") if f.is_file())


def readers(cache):
    """Every way to read block 0."""
    return {
        "training": lambda: cache.read_block(0, PATHS),
        "arrays": lambda: cache.read(0, {*PATHS, USABLE}),
        "columns": lambda: [cache.column(a) for a in USED if a not in ENDS],
    }


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


@pytest.mark.parametrize("array", USED)
def test_any_flipped_bit_is_an_error(copy, array):
    (file,) = files_of(copy, array)
    original, rng = file.read_bytes(), np.random.default_rng(0)
    for bit in rng.integers(8 * len(original), size=12).tolist():
        flip(file, bit)
        for name, read in readers(Cache(copy)).items():
            if name != "columns" or array not in ENDS:
                with pytest.raises(DamagedError, match=f"{array}/c/0.* differs from its receipt"):
                    read()
        file.write_bytes(original)
    assert Cache(copy).read_block(0, PATHS)


@pytest.mark.parametrize("array", ["images/data", "images/end", "global_cls/cls", "views/box"])
def test_exchanged_files_of_equal_size_are_an_error(copy, array):
    one, other = files_of(copy, array, 0)[0], files_of(copy, array, 1)[0]
    size = max(one.stat().st_size, other.stat().st_size)
    one, other = (f if f.stat().st_size == size else one for f in (one, other))
    for file, data in ((one, other.read_bytes()), (other, one.read_bytes())):
        file.write_bytes(data)
    with pytest.raises(DamagedError, match="differs from its receipt"):
        [Cache(copy).read_block(b, PATHS) for b in (0, 1)]


@pytest.mark.parametrize("array", USED)
def test_a_file_that_vanishes_after_opening_is_an_error(copy, array):
    """Zarr takes a chunk that is missing for zeros."""
    cache = open_cache(copy)
    cache.read_block(0, PATHS)
    for file in files_of(copy, array):
        file.unlink()
    for name, read in readers(cache).items():
        if name != "columns" or array not in ENDS:
            with pytest.raises(DamagedError, match=f"{array}/c/0.* is missing") as caught:
                read()
            assert f"c2s cache verify {copy} --quick" in str(caught.value)


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(copy):
    file = files_of(copy, "masks/grid")[0]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CacheError, match="masks/grid"):
        open_cache(copy).read_block(0, PATHS)
    assert any("masks/grid" in finding.where for finding in verify(Cache(copy)))
    receipt = copy / "receipts/masks/000000.json"
    receipt.unlink()
    os.mkfifo(receipt)
    with pytest.raises(CacheError, match="000000"):
        open_cache(copy)


def test_text_is_proven_too(copy):
    cache = open_cache(copy)
    cache.once("text/embeddings")
    flip(*files_of(copy, "text/embeddings"), 77)
    with pytest.raises(
        DamagedError, match=r"text/embeddings/c/0/0 differs from its receipt.*verify"
    ):
        cache.once("text/embeddings")
    files_of(copy, "text/embeddings")[0].unlink()
    with pytest.raises(DamagedError, match="is missing"):
        cache.once("text/embeddings")


def test_a_file_where_an_array_has_none_is_not_read(path, tmp_path):
    """All its values are 0, so it has no file; one that lies there is no part of the cache."""
    copy = shutil.copytree(path, tmp_path / "copy.zarr")
    flips = Cache(copy).read(0, ["views/flip"])["views/flip"]
    boxes = Cache(copy).read(0, ["views/box"])["views/box"]
    assert flips.any()
    (file,) = files_of(copy, "views/flip")
    data = file.read_bytes()
    BlockWriter(copy).write("views", 0, {"views/box": boxes, "views/flip": np.zeros_like(flips)})
    assert not files_of(copy, "views/flip")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    assert not Cache(copy).read_block(0, PATHS).arrays["views/flip"].any()
    assert not Cache(copy).read(0, ["views/flip"])["views/flip"].any()
    assert [f.check for f in verify(Cache(copy))] == ["structure"]


def test_files_are_digested_once_and_again_when_they_change(copy, monkeypatch):
    cache, digested = open_cache(copy), []
    digest = type(cache.folder).digest

    def counting(folder, name):
        digested.append(name)
        return digest(folder, name)

    monkeypatch.setattr(type(cache.folder), "digest", counting)
    first = cache.read_block(0, PATHS)
    arrays = {name.partition("/c/")[0] for name in digested}
    assert arrays == set(USED), "only what is used"
    digested.clear()
    cache.read_block(0, PATHS)
    assert digested == []
    (file,) = files_of(copy, "masks/grid")
    file.with_name("shared").hardlink_to(file)  # as derive does; the bytes are the same
    again = cache.read_block(0, PATHS)
    assert [name.partition("/c/")[0] for name in digested] == ["masks/grid"]
    np.testing.assert_array_equal(first.arrays["masks/grid"], again.arrays["masks/grid"])
    before = file.stat()
    flip(file, 99)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p and rsync do
    with pytest.raises(DamagedError, match="masks/grid"):
        cache.read_block(0, PATHS)


def test_a_file_that_changes_while_it_is_read_is_read_again(copy, monkeypatch):
    import c2s_cache.reader as reader

    cache = open_cache(copy)
    want = cache.read_block(0, PATHS).arrays
    (file,) = files_of(copy, "masks/grid")
    data, decode, calls = file.read_bytes(), reader.decode, []

    def meanwhile(parts):
        calls.append(1)
        if len(calls) == 1:
            file.unlink()
        found = decode(parts)
        if not file.exists():
            file.write_bytes(data)
        return found

    monkeypatch.setattr(reader, "decode", meanwhile)
    got = cache.read_block(0, PATHS).arrays
    assert len(calls) == 4
    assert all(np.array_equal(got[name], want[name]) for name in want)


def test_a_cache_that_is_changed_in_place_is_noticed_by_those_who_read_it(copy):
    cache, again = open_cache(copy), open_cache(copy)
    masks = [cache.read(b, ["masks/grid"]) for b in range(cache.blocks)]
    create_cache(copy, tiny_manifest(views=2, masks={"seed": 7}), update=True)
    for reader in (cache, again):  # one that has read of it, and one that has not
        with pytest.raises(CacheError, match=r"has changed since it was opened|differs from"):
            reader.read_block(0, PATHS)
    writer = BlockWriter(copy)
    for block, arrays in enumerate(masks):
        writer.write("masks", block, {"masks/grid": arrays["masks/grid"][:, :, ::-1]})
    for reader in (cache, again):
        with pytest.raises(DamagedError, match=r"has changed since it was opened|differs from"):
            reader.read_block(0, PATHS)
    with pytest.raises(DamagedError, match="has changed since it was opened"):
        Cache(copy, cache.manifest)


def test_the_metadata_are_proven_before_they_are_used(copy):
    with (copy / "zarr.json").open("a") as file:
        file.write(" ")
    for read in readers(Cache(copy)).values():
        with pytest.raises(DamagedError, match=r"zarr\.json differs from its receipt"):
            read()


def test_every_array_is_one_that_is_read_or_verified(path):
    """A new array must be put to the tests above."""
    arrays = {spec.path for spec in array_specs(Cache(path).manifest)}
    others = {
        "images/digest",
        "rows/id_data",
        "rows/id_end",
        "text/embeddings",
    }
    assert arrays == {*USED, *others}


HUGE = 10**12


@pytest.mark.parametrize(
    ("keys", "views"), [({"rows": HUGE}, 2), ({"rows": HUGE}, HUGE), ({"block_rows": HUGE}, 2)]
)
def test_a_manifest_of_too_many_rows_costs_nothing(copy, keys, views):
    root = copy / "zarr.json"
    content = json.loads(root.read_text())
    manifest = content["attributes"]["c2s"]
    (manifest["parts"][0] if "rows" in keys else manifest).update(keys)
    (stage,) = (s for s in manifest["stages"] if s["name"] == "views")
    stage["axes"]["view"] = views
    root.write_text(json.dumps(content))
    assert describe(str(copy))["images"] == keys.get("rows", 11)
    with pytest.raises(CacheError, match=r"is incomplete|has changed"):
        open_cache(copy)
    checks = [f.check for f in verify(Cache(copy))]
    assert "checksum" in checks
    assert len(checks) < 100


@pytest.mark.parametrize(
    "content",
    [b'{"attributes": {"c2s": null}}', b"[]", b"null", b"\xff\xfe", b"", b"[" * 100_000, b"{}"],
)
def test_a_damaged_root_is_one_sentence(copy, content):
    (copy / "zarr.json").write_bytes(content)
    for opened in (open_cache, Cache):
        with pytest.raises(CacheError, match=r"is a damaged cache: its zarr\.json") as caught:
            opened(copy)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("damage", ["null", "cut", "zeros", "list", "binary", "nested"])
def test_a_damaged_receipt_is_one_sentence(copy, damage):
    file = copy / "receipts/masks/000001.json"
    whole = file.read_bytes()
    file.write_bytes(
        {
            "null": b'{"receipt":null,"sha256":null}',
            "cut": whole[:-9],
            "zeros": bytes(len(whole)),
            "list": b"[1]",
            "binary": b"\xff" * 300,
            "nested": b"[" * 100_000,
        }[damage]
    )
    for use in (open_cache, lambda p: Cache(p).read_block(1, PATHS), lambda p: verify(Cache(p))):
        with pytest.raises(CacheError, match=r"000001.json is damaged.*Delete that file"):
            use(copy)


@pytest.mark.parametrize("key", ["consolidated_metadata", "node_type", "zarr_format"])
@pytest.mark.parametrize("value", [None, [], {}, "x", {"metadata": {"a": None}}])
def test_damaged_metadata_of_the_arrays_are_one_sentence(copy, key, value):
    root = copy / "zarr.json"
    root.write_text(json.dumps(json.loads(root.read_text()) | {key: value}))
    with pytest.raises(CacheError):
        Cache(copy).read_block(0, PATHS)
    assert "checksum" in {f.check for f in verify(Cache(copy))}
