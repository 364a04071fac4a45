"""Photos alone, without label maps and class names: cached, verified, trained on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_builds import contents, request

from c2s.datasets import load_dataset
from c2s.runs.config import load_config
from c2s.training.run import train
from c2s_cache import ConfigError, DataError, open_cache
from c2s_cache.integrity import verify
from c2s_pipeline.build.verify import content


@pytest.fixture
def photos(tmp_path):
    """Six photos, half of them in a folder below."""
    rng = np.random.default_rng(0)
    for i in range(6):
        file = tmp_path / "holiday" / ("more" if i % 2 else ".") / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)).save(file)
    return load_dataset(str(tmp_path / "holiday")).split("train")


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 2])
def test_photos_are_cached_and_trained_on(build, photos, tiny_teacher, tmp_path, views):
    """Every pixel that shows the image is open to clustering, and every region is latent."""
    wanted = request(tiny_teacher, views=views)
    report = build(photos, wanted, tmp_path / "h.zarr")
    cache = open_cache(report.path)
    assert cache.manifest.stage_names == (
        *("images", "views", "global_cls", "dense", "masks", "regions"),
    )
    assert (cache.manifest.classes, report.rows) == ((), 6)
    assert verify(cache, content(cache)) == []
    block = cache.read_block(0, ["masks/grid", "regions/id"])
    for view in range(views):
        ids = block.sample(0, view)["regions/id"]
        assert set(ids) <= set(np.unique(block.sample(0, view)["masks/grid"]))  # N is 0
        assert len(ids)
    config = load_config(
        defaults={
            **{"cache": str(report.path), "student": "shapes-net", "iterations": 2},
            **{"batch_size": 2, "workers": 0, "runs": tmp_path, "name": "run"},
        }
    )
    assert (train(config) / "checkpoint").is_dir()
    assert build(photos, wanted, tmp_path / "h.zarr").computed == {}
    again = build(photos, wanted, tmp_path / "again.zarr")
    assert contents(again.path) == contents(report.path)


def test_photos_have_no_labels_to_score_on(photos):
    assert not photos.labelled
    assert len(photos) == 6
    with pytest.raises(DataError, match=r"holds photos alone: .* has no label map"):
        photos[0].read()


def test_masks_without_names_are_no_photos(tmp_path):
    (tmp_path / "own/masks").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"has masks, but no classes\.yaml"):
        load_dataset(str(tmp_path / "own"))


def test_a_photo_without_a_mask_beside_others_is_all_latent(build, tiny_teacher, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "mixed"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    (folder / "classes.yaml").write_text("classes: [cat, dog]\nunlabelled: use\n")
    for name in "abc":
        picture = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"images/{name}.jpg")
    for name in "ac":
        mask = np.zeros((40, 60), np.uint8)
        mask[:, 20:] = 1
        mask[20:] = 255
        Image.fromarray(mask).save(folder / f"masks/{name}.png")
    split = load_dataset(str(folder)).split("train")
    wanted = request(tiny_teacher, text_embeddings=str(_two_rows(tmp_path)), block_rows=3)
    cache = open_cache(build(split, wanted, tmp_path / "m.zarr").path)
    block = cache.read_block(0, ["masks/grid", "regions/id", "labels/data"])
    samples = [block.sample(row) for row in range(3)]
    (alone,) = (s for s in samples if (s["labels/data"] == 255).all())
    assert (alone["masks/grid"] != 255).all()
    assert alone["regions/id"].min() >= 2  # latent ids begin at the number of classes
    for sample in samples:
        if sample is not alone:
            assert {0, 1} <= set(sample["regions/id"].tolist())
            assert (sample["masks/grid"] == 255).any()


def _two_rows(folder):
    np.save(folder / "rows.npy", np.eye(2, 32, dtype=np.float32))
    return folder / "rows.npy"
