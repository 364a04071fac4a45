"""Eq. 3: masked images, areas, and what is skipped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from c2s.testing import shapes
from c2s_cache.errors import ConfigError
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
    pseudo[9:14, 2:6] = -1
    _, box = masked_regions(image, pseudo, RegionSettings(masking="box", fill="none"))
    assert (box[2] == 77).all()
    _, box = masked_regions(image, pseudo, RegionSettings(masking="box"))
    assert (box[2] == 0).any()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["zero", "mean", "none"]))
def test_square_is_the_least_one_about_the_box_that_lies_in_the_frame(seed, fill):
    """Of all squares of the box's longer side that hold the box, the one whose middle is nearest to the box's."""
    rng = np.random.default_rng(seed)
    side = int(rng.integers(1, 14))
    image = rng.integers(1, 256, (side, side, 3), dtype=np.uint8)
    pseudo = np.full((side, side), -1, np.int16)
    (top, bottom), (left, right) = np.sort(rng.integers(0, side, (2, 2)), axis=1)
    pseudo[top : bottom + 1, left : right + 1] = 4
    settings = RegionSettings(masking="square", fill=fill, min_area=0)
    (region,), (got,) = masked_regions(image, pseudo, settings, (9, 8, 7))
    assert region == 4
    long = max(bottom - top, right - left) + 1
    held = [
        (y, x)
        for y in range(side - long + 1)
        for x in range(side - long + 1)
        if y <= top and bottom < y + long and x <= left and right < x + long
    ]
    y, x = min(
        held,
        key=lambda yx: (
            abs(2 * yx[0] + long - 1 - top - bottom) + abs(2 * yx[1] + long - 1 - left - right),
            yx,
        ),
    )
    outside = {"zero": (0, 0, 0), "mean": (9, 8, 7), "none": image}[fill]
    shown = np.where((pseudo == 4)[..., None], image, np.uint8(outside))
    crop = Image.fromarray(shown).crop((x, y, x + long, y + long))
    want = crop.resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(got, np.asarray(want))


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


def cache_of(**settings):
    """Region tokens and ids of a cache of Shapes with these settings of the regions, its passes, and its record."""
    manifest = shapes.manifest_of(("regions",), {"regions": settings} if settings else {})
    values, passes = shapes.computed(manifest, shapes.scenes())
    return values["regions/cls"], values["regions/id"], passes, manifest.stage("regions").settings


def test_a_region_shown_in_several_ways_has_the_mean_direction_of_what_they_give():
    looks = ("frame-zero", "frame-mean", "box-none", "square-mean")
    tokens, ids, passes, record = cache_of(looks=looks)
    alone = [
        cache_of(**dict(zip(("masking", "fill"), look.split("-"), strict=True))) for look in looks
    ]
    units = [
        t.astype(np.float32) / np.linalg.norm(t.astype(np.float32), axis=-1, keepdims=True)
        for t, *_ in alone
    ]
    assert all(np.array_equal(ids, other) for _, other, *_ in alone)
    # Tokens are float16, here and there.
    np.testing.assert_allclose(tokens.astype(np.float32), np.mean(units, 0), rtol=0, atol=5e-4)
    assert passes - alone[0][2] == 3 * len(ids)
    assert record == {"min_area": 0.0025, "looks": list(looks)}


def test_the_order_of_looks_makes_no_difference():
    one, other = (
        shapes.manifest_of(("regions",), {"regions": {"looks": looks}})
        for looks in (["box-none", "frame-zero"], ("frame-zero", "box-none"))
    )
    assert one.fingerprints == other.fingerprints


def test_a_single_look_is_recorded_as_it_always_was():
    assert cache_of()[3] == {"masking": "frame", "fill": "zero", "min_area": 0.0025}
    assert np.array_equal(cache_of()[0], cache_of(masking="frame")[0])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"looks": ["frame-zero"]}, "expected at least two of frame-zero, frame-mean, box-zero"),
        (
            {"looks": "frame-zero"},
            "such as [frame-zero, square-none]; one alone is said by masking",
        ),
        ({"looks": []}, "expected at least two"),
        ({"looks": [["frame-zero"], 3]}, "expected at least two"),
        ({"looks": ["frame-zero", "frame-zero"]}, "frame-zero stands there twice"),
        ({"looks": ["frame-zero", "round-mean"]}, "expected at least two of frame-zero"),
        ({"fill": "none"}, "it needs masking=box or masking=square"),
        ({"looks": ["frame-zero", "box-mean"], "fill": "mean"}, "regions.fill has no effect: "),
    ],
)
def test_looks_that_do_not_fit_are_refused(settings, says):
    with pytest.raises((ConfigError, ValidationError)) as error:
        shapes.manifest_of(("regions",), {"regions": settings})
    assert says in str(error.value)
