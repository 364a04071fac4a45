"""The live check finds what no checksum tells."""

from __future__ import annotations

import shutil

import fsspec
import numpy as np
import pytest

from c2s_cache import C2SError, Cache, CacheError, open_cache
from c2s_cache.schema import array_specs
from c2s_cache.writer import BlockWriter
from c2s_pipeline.build.verify import sample_rows, spot_check
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.recorded import load_recorded, recorded_spec
from c2s_pipeline.teachers.registry import load_teacher


@pytest.mark.parametrize(
    ("stage", "path", "message"),
    [
        ("global_cls", "global_cls/cls", "cosine of the global CLS is"),
        ("dense", "dense/tokens", "cosine of dense features is"),
        ("masks", "masks/grid", "share of grid cells as clustering gives them is"),
        ("regions", "regions/cls", "cosine of region CLS (-1: other regions) is"),
        ("regions", "regions/id", "cosine of region CLS (-1: other regions) is -1"),
    ],
)
def test_a_live_check_finds_tokens_of_other_images(
    built, tiny_teacher, tmp_path, stage, path, message
):
    """Values of other rows under valid receipts: no checksum tells, the teacher does."""
    out, _ = built
    teacher = load_teacher(TeacherSpec(tiny_teacher, None))
    cache = open_cache(out)
    sound = spot_check(cache, teacher, sample_rows(cache, 9, 0))
    assert sound.findings == ()
    assert sound.rows == (0, 1, 2, 3, 4)
    assert set(sound.worst) == {"global_cls", "dense", "masks", "regions"}
    assert min(likeness.value for likeness in sound.worst.values()) > 0.9999
    copy = shutil.copytree(out, tmp_path / "copy.zarr")
    writer = BlockWriter(copy)
    arrays = cache.read(0, [s.path for s in array_specs(cache.manifest) if s.stage == stage])
    mixed = np.roll(arrays[path].reshape(-1), 5).reshape(arrays[path].shape)
    writer.write(stage, 0, arrays | {path: mixed})
    found = spot_check(open_cache(copy), teacher, [0, 1]).findings
    assert any(message in f.what for f in found)


def test_a_live_check_of_a_cache_in_an_object_store(built, tiny_teacher):
    files, root = fsspec.core.url_to_fs("memory://bucket/coco.zarr")
    files.put(str(built[0]), root, recursive=True)
    try:
        cache = open_cache("memory://bucket/coco.zarr")
        teacher = load_teacher(recorded_spec(cache.manifest, tiny_teacher))
        found = spot_check(cache, teacher, sample_rows(cache, 9, 0))
        assert (found.findings, found.rows) == ((), (0, 1, 2, 3, 4))
    finally:
        files.rm(root, recursive=True)


@pytest.mark.slow
def test_a_live_check_takes_no_other_teacher(built, tiny_teacher, tmp_path):
    manifest = Cache(built[0]).manifest
    with pytest.raises(CacheError, match=r"has the digest .* found as ViT-B-32, random"):
        load_recorded(manifest, recorded_spec(manifest, "ViT-B-32", "random"))
    with pytest.raises(C2SError, match=r"cannot be loaded.*--pretrained FILE.* another way out"):
        load_recorded(manifest, recorded_spec(manifest), "another way out")
