"""Writer, reader and verification on a small real cache: round trip, damage, refusal."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from tiny_cache import PATHS, tiny_manifest, write_cache

from c2s.text import cached_text
from c2s_cache import Cache, CacheError, open_cache
from c2s_cache.change import change
from c2s_cache.integrity import Content, verify
from c2s_cache.lock import build_lock
from c2s_cache.receipt import METADATA, retract
from c2s_cache.schema import array_specs, ragged_ranges
from c2s_cache.writer import STAGING, BlockWriter, create_cache
from c2s_pipeline.stages.labels import Labels


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache") / "tiny.zarr", views=2)


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "copy.zarr")


def test_the_tiny_cache_is_sound(path):
    assert verify(open_cache(path)) == []


def test_arrays_are_as_the_specification_says(path):
    root = zarr.open_group(path, mode="r")
    for spec in array_specs(Cache(path).manifest):
        meta = root[spec.path].metadata.to_dict()
        assert tuple(meta["dimension_names"]) == spec.dims
        (codec,) = meta["codecs"]
        assert codec["name"] == "sharding_indexed"
        inner = codec["configuration"]["codecs"]
        assert inner[-1]["name"] == "crc32c"
        assert codec["configuration"]["index_codecs"][-1]["name"] == "crc32c"
        assert meta["chunk_grid"]["configuration"]["chunk_shape"] == spec.shards


def test_one_block_owns_its_files(path):
    """Rewriting a block changes no file of another."""
    cache = Cache(path)
    for (stage, block), receipt in cache.receipts.items():
        for name in receipt.files if stage != METADATA else ():
            array, _, key = name.partition("/c/")
            assert key.split("/")[0] == str(block), (stage, name)
            assert array in {s.path for s in array_specs(cache.manifest) if s.stage == stage}


def test_text_of_training_has_no_unseen_class(path):
    cache = open_cache(path)
    m = cache.manifest
    seen, everything = cached_text(cache, "seen"), cached_text(cache, "all")
    assert set(seen.ids).isdisjoint(m.unseen)
    assert len(everything.ids) == len(m.classes)
    np.testing.assert_array_equal(everything.embeddings[list(seen.ids)], seen.embeddings)


def test_quarantined_rows_are_left_out_and_shown(path):
    cache = open_cache(path)
    rows = np.concatenate([cache.read_block(b, []).rows for b in range(cache.blocks)])
    assert 2 not in rows
    assert [q["row"] for q in cache.quarantine] == [2]


@pytest.mark.slow
def test_any_flipped_byte_is_found(copy):
    """Flip one bit in every file in turn: data, receipts and metadata."""
    rng = np.random.default_rng(0)
    files = [f for f in sorted(copy.rglob("*")) if f.is_file()]
    missed = []
    for file in files:
        data = bytearray(file.read_bytes())
        where = int(rng.integers(len(data)))
        original = bytes(data)
        data[where] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(data))
        try:
            found = {str(f) for f in verify(open_cache(copy))}
        except (CacheError, ValueError, KeyError, TypeError) as error:
            found = {str(error)}
        if not found:
            missed.append((file.relative_to(copy), where))
        file.write_bytes(original)
    assert missed == []


@pytest.mark.parametrize("stage", ["images", "masks", "text"])
def test_an_unfinished_cache_is_refused(copy, stage):
    (copy / "receipts" / stage / "000000.json").unlink()
    with pytest.raises(CacheError, match="is incomplete"):
        open_cache(copy)
    assert any(f.check == "complete" for f in verify(Cache(copy)))


def test_a_missing_or_cut_file_is_refused(copy):
    file = copy / "regions/cls/c/1/0/0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CacheError, match="missing or has the wrong size"):
        open_cache(copy)
    file.unlink()
    with pytest.raises(CacheError, match="missing or has the wrong size"):
        open_cache(copy)


def test_a_receipt_of_another_request_is_refused(copy):
    group = copy / "zarr.json"
    group.write_text(group.read_text().replace('"seed": 0', '"seed": 9'))
    with pytest.raises(CacheError, match="written for another request"):
        open_cache(copy)


def test_training_refuses_a_changed_manifest(copy):
    """Same size, same fingerprints: students would see views of another side."""
    group = copy / "zarr.json"
    text = group.read_text()
    assert text.count('"view_size": 32') == 1
    group.write_text(text.replace('"view_size": 32', '"view_size": 64'))
    with pytest.raises(CacheError, match=r"zarr\.json has changed since the cache was created"):
        open_cache(copy)


def test_files_that_no_receipt_names_are_found(copy):
    (copy / "masks/grid/c/1.abc.partial").write_bytes(b"half a shard")
    assert [(f.check, f.where) for f in verify(Cache(copy))] == [
        ("structure", "masks/grid/c/1.abc.partial")
    ]


class Cut(BaseException):
    """The moment at which a process is killed."""


@pytest.mark.parametrize("allowed", [0, 1, 2, 4, 7, 15, 30, 60])
def test_a_change_cut_short_at_any_step_ends_the_same(path, tmp_path, monkeypatch, allowed):
    """Stop after so many changes to the file system; the next attempt mends all."""
    wanted = tiny_manifest(views=2, masks={"seed": 1}, dense={"tier": "int8"})
    whole = shutil.copytree(path, tmp_path / "whole.zarr")
    create_cache(whole, wanted, update=True)
    target, left = shutil.copytree(path, tmp_path / "cut.zarr"), allowed

    def step(original):
        def run(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut
            return original(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "unlink"), (Path, "replace"), (os, "unlink"), (os, "rmdir")):
            patch.setattr(owner, name, step(getattr(owner, name)))
        with pytest.raises(Cut):
            create_cache(target, wanted, update=True)
    if files(target) != files(path):
        with pytest.raises(CacheError):
            open_cache(target)
    create_cache(target, wanted, update=True)
    assert files(target) == files(whole)


def files(folder):
    found = (f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in found}


def test_what_a_killed_writer_left_is_gone_when_its_block_is_written(copy):
    left = [copy / "masks/grid/c/1/0/0.abc.partial", copy / "receipts/masks/.000001.json.part"]
    before = files(copy)
    for file in left:
        file.write_bytes(b"half a file")
    BlockWriter(copy).write("masks", 1, Cache(copy).read(1, ["masks/grid"]))
    assert files(copy) == before


def test_shards_half_written_beside_others_are_gone_when_a_build_begins_and_when_it_ends(copy):
    """Of workers that an earlier build lost, or this one."""
    shard = copy / "rows/usable/c/1"
    assert shard.is_file()
    left = shard.with_name("1.abc.partial")
    before = files(copy)
    left.write_bytes(b"half a file")
    with build_lock(copy):
        assert not left.exists()
        left.write_bytes(b"half a file")
    assert files(copy) == before


def test_writing_a_block_looks_through_no_folder_of_all_blocks(copy, monkeypatch):
    """There are 7,813 in a cache of a million images."""
    arrays = [spec.path for spec in array_specs(Cache(copy).manifest) if spec.stage == "images"]
    data = Cache(copy).read(1, arrays)
    seen = []
    with build_lock(copy) as token:
        writer = BlockWriter(copy, token)
        retract(copy, "images", 1)
        with monkeypatch.context() as patch:
            for name in ("scandir", "listdir"):
                real = getattr(os, name)
                patch.setattr(os, name, lambda p, real=real: seen.append(str(p)) or real(p))
            writer.write("images", 1, data)
    found = [Path(name).relative_to(copy) for name in seen if name.startswith(str(copy))]
    assert found
    assert [path for path in found if "1" not in path.parts] == []


def test_moved_receipts_are_noticed(copy):
    receipts = copy / "receipts/masks"
    shutil.copy(receipts / "000000.json", receipts / "000001.json")
    with pytest.raises(CacheError, match="files were moved"):
        open_cache(copy)


def test_a_chunk_that_changed_is_one_sentence_when_read(copy):
    shard = next(f for f in sorted((copy / "labels/data/c").rglob("*")) if f.is_file())
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheError, match="cannot be read") as caught:
        Cache(copy).read_block(0, PATHS)
    assert "c2s cache verify" in str(caught.value)


def test_training_reads_what_zarr_itself_reads(copy):
    cache = Cache(copy)
    for block in range(cache.blocks):
        for path, values in cache.read(block, PATHS).items():
            read = cache.read_block(block, PATHS).arrays[path]
            np.testing.assert_array_equal(read, values)


def test_a_sample_holds_what_was_asked_for_of_its_row_and_view(path):
    cache = open_cache(path)
    for number in range(cache.blocks):
        arrays, block = cache.read(number, PATHS), cache.read_block(number, PATHS)
        areas = list(ragged_ranges(arrays["regions/end"]))
        pixels = list(ragged_ranges(arrays["labels/end"]))
        for i, view in np.ndindex(len(block), cache.manifest.views):
            sample = block.sample(i, view)
            at = sample.row - block.start
            assert (sample.row, sample.view) == (block.rows[i], view)
            assert sample.arrays.keys() == {*PATHS, "rows/usable"}
            np.testing.assert_array_equal(sample["images/size"], arrays["images/size"][at])
            np.testing.assert_array_equal(sample["masks/grid"], arrays["masks/grid"][at, view])
            for key, (start, stop) in {
                "labels/data": pixels[at],
                "regions/cls": areas[at * cache.manifest.views + view],
            }.items():
                np.testing.assert_array_equal(sample[key], arrays[key][start:stop])


def test_nothing_is_read_that_was_not_asked_for(path):
    block = open_cache(path).read_block(0, ["views/box"])
    assert block.arrays.keys() == {"views/box", "rows/usable"}
    assert "labels/ignored" not in block.sample(0)


LABELS = Content(frozenset(Labels.inspected), Labels().inspect)


def test_leaked_labels_are_found(copy):
    arrays = Cache(copy).read(0, ["labels/data", "labels/ignored"])
    arrays["labels/data"][0] = Cache(copy).manifest.unseen[0]
    BlockWriter(copy).write("labels", 0, arrays)
    assert any(f.check == "leakage" for f in verify(Cache(copy), LABELS))


def test_an_annotated_pixel_that_is_ignored_as_well_is_found(copy):
    arrays = Cache(copy).read(0, ["labels/data", "labels/ignored"])
    arrays["labels/ignored"][np.flatnonzero(arrays["labels/data"] != 255)[0]] = True
    BlockWriter(copy).write("labels", 0, arrays)
    (finding,) = {f.what for f in verify(Cache(copy), LABELS) if f.check == "values"}
    assert "annotated pixel" in finding


@pytest.mark.parametrize("content", [None, "not json", '{"attributes": {}}'])
def test_what_is_not_a_cache_is_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(CacheError, match="is not a c2s cache") as caught:
        open_cache(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_format_is_refused(copy):
    group = copy / "zarr.json"
    group.write_text(group.read_text().replace('"format": 4', '"format": 3'))
    with pytest.raises(CacheError, match=r"cache format 3; this version reads 4.*build it anew"):
        open_cache(copy)


def test_creation_that_was_cut_short_is_repeated(path, tmp_path):
    manifest = Cache(path).manifest
    target = tmp_path / "new.zarr"
    assert create_cache(target, manifest) is None
    assert create_cache(target, manifest) == change(manifest, manifest)
    (target / "receipts/metadata/000000.json").unlink()
    shutil.rmtree(target / "receipts")
    (target / "regions/zarr.json").unlink()
    (target / STAGING).mkdir()
    assert create_cache(target, manifest) is None
    assert not (target / STAGING).exists()
    assert (target / "regions/zarr.json").exists()
