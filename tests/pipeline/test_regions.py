"""Eq. 3: masked images, areas, and what is skipped."""

import numpy as np

from c2s_pipeline.regions import RegionConfig, masked_regions


def scene():
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (16, 16, 3), dtype=np.uint8)
    pseudo = np.full((16, 16), -1, np.int16)
    pseudo[:8], pseudo[8:, :8], pseudo[15, 15] = 3, 20, 7
    return image, pseudo


def test_frame_is_the_image_times_the_mask():
    image, pseudo = scene()
    regions = masked_regions(image, pseudo, RegionConfig(min_area=0.01))
    assert regions.ids.tolist() == [3, 20]
    assert regions.skipped == 1
    np.testing.assert_allclose(regions.area, [0.5, 0.25])
    for region, got in zip(regions.ids, regions.images, strict=True):
        for y in range(16):
            for x in range(16):
                want = image[y, x] if pseudo[y, x] == region else [0, 0, 0]
                assert got[y, x].tolist() == list(want)


def test_mean_fill_and_box():
    image, pseudo = scene()
    filled = masked_regions(image, pseudo, RegionConfig(fill="mean"), (9, 8, 7))
    assert filled.images[0][12, 3].tolist() == [9, 8, 7]
    image[8:, :8] = 77
    box = masked_regions(image, pseudo, RegionConfig(masking="box"))
    assert box.ids.tolist() == [3, 7, 20]
    assert (box.images[1] == image[15, 15]).all()
    assert (box.images[2] == 77).all()
