"""Eq. 3: masked images, areas, and what is skipped."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from c2s_pipeline.stages.regions import RegionSettings, masked_regions


def scene():
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (16, 16, 3), dtype=np.uint8)
    pseudo = np.full((16, 16), -1, np.int16)
    pseudo[:8], pseudo[8:, :8], pseudo[15, 15] = 3, 20, 7
    return image, pseudo


def test_frame_is_the_image_times_the_mask():
    image, pseudo = scene()
    ids, images = masked_regions(image, pseudo, RegionSettings(min_area=0.01))
    assert ids.tolist() == [3, 20]  # the third is too small
    for region, got in zip(ids, images, strict=True):
        for y in range(16):
            for x in range(16):
                want = image[y, x] if pseudo[y, x] == region else [0, 0, 0]
                assert got[y, x].tolist() == list(want)


def test_mean_fill_and_box():
    image, pseudo = scene()
    _, filled = masked_regions(image, pseudo, RegionSettings(fill="mean"), (9, 8, 7))
    assert filled[0][12, 3].tolist() == [9, 8, 7]
    image[8:, :8] = 77
    ids, box = masked_regions(image, pseudo, RegionSettings(masking="box"))
    assert ids.tolist() == [3, 7, 20]
    assert (box[1] == image[15, 15]).all()
    assert (box[2] == 77).all()


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.sampled_from(["zero", "mean"]))
def test_any_pseudo_mask(seed, classes, fill):
    """Also one that leaves no region, or whose regions are all too small."""
    rng = np.random.default_rng(seed)
    side = int(rng.integers(1, 20))
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    pseudo = rng.integers(-1, classes, (side, side)).astype(np.int16)
    config = RegionSettings(fill=fill, min_area=rng.random() * 0.2)
    ids, images = masked_regions(image, pseudo, config, (9, 8, 7))
    counts = {r: int((pseudo == r).sum()) for r in range(classes) if (pseudo == r).any()}
    large = [r for r, count in counts.items() if np.float32(count / side**2) >= config.min_area]
    assert ids.tolist() == large
    assert (ids.dtype, images.dtype) == (np.int16, np.uint8)
    outside = (9, 8, 7) if fill == "mean" else (0, 0, 0)
    assert images.shape == (len(large), side, side, 3)
    for region, masked in zip(large, images, strict=True):
        np.testing.assert_array_equal(
            masked, np.where((pseudo == region)[..., None], image, np.uint8(outside))
        )
