"""Photos and label maps that are not as they should be."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from small_builds import request

from c2s.annotation import read_annotation
from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR, RAW_VALUES
from c2s_cache import CacheError, DataError, open_cache
from c2s_cache.integrity import verify
from c2s_cache.picture import decode_image


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 3])
def test_unreadable_photos_are_quarantined(build, source, tiny_teacher, tmp_path, views):
    broken = source.root / "images/train2017/000000000001.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    out = tmp_path / "coco.zarr"
    build(source, request(tiny_teacher, views=views), out)
    cache = open_cache(out)
    assert [q["id"] for q in cache.quarantine] == ["000000000001"]
    assert "cannot be decoded" in cache.quarantine[0]["reason"]
    assert sum(len(cache.read_block(b, [])) for b in range(cache.blocks)) == 3
    assert verify(cache) == []


def test_unusual_photos_are_read_as_a_viewer_shows_them(build, source, tiny_teacher, tmp_path):
    folder = source.root / "images/train2017"
    files = sorted(folder.iterdir())
    Image.open(files[0]).convert("L").save(files[0])
    Image.open(files[1]).convert("CMYK").save(files[1])
    photo = Image.open(files[2])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees for display
    photo.transpose(Image.Transpose.ROTATE_90).save(files[2], exif=exif, quality=95)
    out = tmp_path / "coco.zarr"
    build(source, request(tiny_teacher), out)
    cache = open_cache(out)
    assert cache.quarantine == []
    for b in range(cache.blocks):
        block, ids = cache.read_block(b, ["images/data"]), cache.ids(b)
        for i in range(len(block)):
            s = block.sample(i)
            image = decode_image(s["images/data"].tobytes())
            assert image.shape == (*source.labels(ids[s.row - block.start]).shape, 3)
            if ids[s.row - block.start] == files[2].stem:
                assert np.abs(image.astype(int) - np.asarray(photo)).mean() < 6


@pytest.mark.slow
def test_label_value_outside_the_classes_stops_the_build(build, source, tiny_teacher, tmp_path):
    file = source.root / "stuffthingmaps_trainval2017/train2017/000000000002.png"
    values = np.asarray(Image.open(file)).copy()
    values[3, 3] = 11
    Image.fromarray(values).save(file)
    out = tmp_path / "coco.zarr"
    with pytest.raises(DataError, match=r"000000000002\.png holds the label value 11"):
        build(source, request(tiny_teacher), out)
    with pytest.raises(CacheError, match="incomplete"):
        open_cache(out)
    values[3, 3] = RAW_VALUES[0]
    Image.fromarray(values).save(file)
    mended = FolderSplit(DESCRIPTOR, source.root, "train")
    with pytest.raises(DataError, match=r"holds 4 images .* and their files were edited"):
        build(mended, request(tiny_teacher), out)
    shutil.rmtree(out)
    assert build(mended, request(tiny_teacher), out).rows == 4


@pytest.mark.slow
def test_receipts_say_what_label_maps_annotate_and_of_which_files_more_frames_are_left(
    build, source, tiny_teacher, tmp_path
):
    """Of unseen classes nothing is said."""
    folder = source.root / "images/train2017"
    file = sorted(folder.iterdir())[1]
    photo = Image.open(file).convert("RGB")
    file.unlink()
    photo.save(file.with_suffix(".png"), save_all=True, append_images=[photo.rotate(180)])
    out = tmp_path / "coco.zarr"
    build(source, request(tiny_teacher), out)
    cache = open_cache(out)
    truth = np.concatenate([source.labels(i).reshape(-1) for i in source.ids])
    seen = {i: int((truth == i).sum()) for i in cache.manifest.seen}
    annotation = read_annotation(cache)
    assert annotation.pixels == {i: n for i, n in seen.items() if n}
    assert annotation.ignored == (truth == 255).sum()
    frames = [row for r in cache.receipts.values() for row in r.notes.get("first_frame", ())]
    assert len(frames) == 1
    assert verify(cache) == []
