"""Sliding windows, sizes, offsets: with students whose output is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from c2s.evaluation.classifier import Classifier
from c2s.evaluation.inference import LONGEST, Predictor, resized, window_starts
from c2s.evaluation.overlay import overlay, palette
from c2s.students.base import FeatureStudent, normalize_images
from c2s_cache.errors import ConfigError


class Colours(FeatureStudent):
    """Features are the colours themselves, at half the resolution."""

    def forward(self, images):
        return nn.functional.avg_pool2d(images, 2)


def image(height=40, width=72):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def embeddings():
    return torch.nn.functional.normalize(
        torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )


@given(length=st.integers(1, 3000), crop=st.integers(1, 600))
def test_windows_cover_an_axis_and_end_with_it(length, crop):
    length = max(length, crop)
    starts = window_starts(length, crop)
    covered = np.zeros(length, bool)
    for start in starts:
        assert 0 <= start <= length - crop
        covered[start : start + crop] = True
    assert covered.all()
    assert len(set(starts)) == len(starts)


def test_windows_of_the_protocol():
    assert window_starts(512, 512) == [0]
    assert window_starts(683, 512) == [0, 171]
    assert window_starts(1024, 512) == [0, 426, 512]


@given(height=st.integers(1, 4000), width=st.integers(1, 4000))
def test_sizes_are_those_of_the_familys_scale(height, width):
    """Keep-ratio resize to (2048, 512), then short side at least 512, rounded half up."""
    scale = min(2048 / max(height, width), 512 / min(height, width))
    scale = max(scale, 512 / min(height, width))
    got = resized(height, width, 512)
    want = (int(height * scale + 0.5), int(width * scale + 0.5))
    assert min(got) == 512
    assert all(abs(a - b) <= (a == 512) for a, b in zip(got, want, strict=True))


def test_whole_images_are_brought_up_to_multiples_of_32():
    class Sizes(FeatureStudent):
        seen = ()

        def forward(self, images):
            self.seen = tuple(images.shape[-2:])
            return images

    student = Sizes()
    Predictor(Classifier(student, embeddings()), 40, "whole").scores(
        np.zeros((40, 41, 3), np.uint8)
    )
    assert student.seen == (64, 64)


def test_stride_and_short_side_of_another_protocol():
    class Windows(Colours):
        count = 0

        def forward(self, images):
            self.count += len(images)
            assert images.shape[-2:] == (32, 32)
            return super().forward(images)

    student = Windows()
    Predictor(Classifier(student, embeddings()), 32, stride=16, short_side=64).scores(image(40, 80))
    assert student.count == 3 * 7


def test_short_side_is_brought_to_the_crop():
    assert resized(480, 640, 512) == (512, 683)
    assert resized(1000, 500, 512) == (1024, 512)


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_scores_are_cosines_at_the_images_own_size(mode):
    predictor = Predictor(Classifier(Colours(), embeddings()), 32, mode)
    scores = predictor.scores(image())
    assert scores.shape == (5, 40, 72)
    assert scores.abs().max() <= 1 + 1e-5


def test_one_window_equals_the_whole_image():
    picture = image(64, 64)
    slide = Predictor(Classifier(Colours(), embeddings()), 64, "slide").scores(picture)
    whole = Predictor(Classifier(Colours(), embeddings()), 64, "whole").scores(picture)
    torch.testing.assert_close(slide, whole)


def test_overlaps_are_averaged():
    class Counter(FeatureStudent):
        """Feature 0 or 1 by call: the n-th window votes for class n."""

        calls = 0

        def forward(self, images):
            out = torch.zeros(len(images), 2, *images.shape[-2:])
            for one in out:
                one[self.calls % 2] = 1
                self.calls += 1
            return out

    predictor = Predictor(Classifier(Counter(), torch.eye(2)), 32, "slide")
    scores = predictor.scores(np.zeros((32, 48, 3), np.uint8))
    starts = window_starts(48, 32)
    assert starts == [0, 16]
    assert scores[:, 0, 0].tolist() == [1, 0]
    assert scores[:, 0, 20].tolist() == [0.5, 0.5]
    assert scores[:, 0, 47].tolist() == [0, 1]


@pytest.mark.parametrize("turned", [False, True])
def test_a_strip_goes_through_the_model_in_parts(turned):
    class Sizes(Colours):
        longest = 0

        def forward(self, images):
            self.longest = max(self.longest, *images.shape[-2:])
            return super().forward(images)

    student, length = Sizes(), 2 * LONGEST * 2 + 10
    picture = np.random.default_rng(0).integers(0, 256, (2, length, 3), dtype=np.uint8)
    picture = picture.swapaxes(0, 1) if turned else picture
    predictor = Predictor(Classifier(student, embeddings()), 32, "whole")
    found = predictor.predict(picture)
    assert student.longest == 16 * (LONGEST + 2) * 2
    want = predictor.scores(picture).argmax(0)
    assert student.longest == 16 * max(picture.shape)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("windows", [1, 2, 3, 50])
def test_windows_together_give_what_windows_one_by_one_give(windows):
    class Conv(FeatureStudent):
        """A student whose output depends on where a window begins."""

        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.weight = torch.randn(3, 3, 5, 5, generator=generator)
            self.largest = 0

        def forward(self, images):
            self.largest = max(self.largest, len(images))
            return nn.functional.conv2d(images, self.weight, stride=4, padding=2)

    student, picture = Conv(), image(40, 72)
    model = Classifier(student, embeddings())
    got = Predictor(model, 32, stride=7, short_side=44, windows=windows).scores(picture)
    normed = normalize_images(
        torch.from_numpy(
            np.asarray(Image.fromarray(picture).resize((79, 44), Image.Resampling.BILINEAR)).copy()
        ).permute(2, 0, 1)[None],
        student,
    )
    total, visits = torch.zeros(1, 5, 44, 79), torch.zeros(44, 79)
    places = [(t, x) for t in (0, 7, 12) for x in (0, 7, 14, 21, 28, 35, 42, 47)]
    for top, left in places:
        at = (..., slice(top, top + 32), slice(left, left + 32))
        total[at] += nn.functional.interpolate(model(normed[at]), (32, 32), mode="bilinear")
        visits[at] += 1
    want = nn.functional.interpolate(total / visits, (40, 72), mode="bilinear")[0]
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    assert student.largest == min(windows, len(places))


class Features(nn.Module):
    """Scores of so many classes at a quarter of the resolution, stored first or last."""

    def __init__(self, classes, stored_last):
        super().__init__()
        self.weight = torch.randn(classes, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        self.stored_last = stored_last

    def forward(self, images):
        out = nn.functional.conv2d(images, self.weight, stride=4, padding=2)
        return out.contiguous(memory_format=torch.channels_last) if self.stored_last else out


def scores_at_once(predictor, picture):
    """All scores of a picture together, every step on all classes: what is never held any more."""
    crop, whole = predictor.crop, predictor.mode == "whole"
    short = max(predictor.short_side or crop, crop)
    height, width = resized(*picture.shape[:2], short)
    if whole:
        height, width = -(-height // 32) * 32, -(-width // 32) * 32
    pixels = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    tensor = torch.from_numpy(np.asarray(pixels).copy()).permute(2, 0, 1)[None]
    images = normalize_images(tensor, predictor.model)
    if whole:
        out = interpolated(predictor.model(images), (height, width))
    else:
        starts = [window_starts(n, crop, predictor.stride) for n in (height, width)]
        visits, total = torch.zeros(height, width), 0
        for top in starts[0]:
            for left in starts[1]:
                at = (..., slice(top, top + crop), slice(left, left + crop))
                each = torch.zeros(1, len(predictor.model.weight), height, width)
                each[at] = interpolated(predictor.model(images[at]), (crop, crop))
                total = total + each
                visits[at] += 1
        out = total / visits
    return interpolated(out, picture.shape[:2])[0]


def interpolated(scores, size):
    return nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_few_classes_after_the_other_give_the_scores_of_all_at_once_bit_for_bit(data):
    """Large pictures too, and numbers of classes at which torch takes other kernels."""
    draw = data.draw
    classes = draw(st.sampled_from([1, 2, 3, 4, 7, 16, 18, 19, 20, 35, 51]))
    side = st.one_of(st.integers(1, 70), st.integers(257, 300))
    height, width = draw(side), draw(side)
    model = Features(classes, draw(st.booleans()))
    predictor = Predictor(
        model,
        draw(st.sampled_from([32, 72])),
        draw(st.sampled_from(["slide", "whole"])),
        stride=draw(st.one_of(st.none(), st.integers(16, 32))),
        short_side=draw(st.sampled_from([None, 80])),
    )
    longer, shorter = max(height, width), min(height, width)
    assume(longer <= 6 * shorter)
    picture = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    want = scores_at_once(predictor, picture)
    assert torch.equal(predictor.scores(picture), want)
    np.testing.assert_array_equal(predictor.predict(picture), want.argmax(0).numpy())
    penalty = torch.linspace(0, 1, classes)
    penalty[classes // 2 :: 5] = torch.inf
    penalty[0] = 0
    plain, held = predictor.best(picture, [None, penalty])
    np.testing.assert_array_equal(plain, want.argmax(0).numpy())
    np.testing.assert_array_equal(held, (want - penalty[:, None, None]).argmax(0).numpy())


LARGE_PHOTO = """
import numpy as np, torch
from c2s.evaluation.inference import Predictor
from c2s_pipeline.memory import peak_memory

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.randn(171, 3, 4, 4)

    def forward(self, images):
        return torch.nn.functional.conv2d(images, self.weight, stride=4)

torch.set_num_threads(1)
labels = Predictor(Model(), 512).predict(np.zeros((4000, 6000, 3), np.uint8))
assert labels.shape == (4000, 6000)
print(peak_memory())
"""


@pytest.mark.slow
def test_a_large_photo_among_many_classes_takes_less_than_3_gb():
    """24 megapixels and 171 classes; all scores together are 16 GB."""
    ran = subprocess.run([sys.executable, "-c", LARGE_PHOTO], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 3e9


def test_of_equal_scores_the_first_class_is_taken():
    class Alike(nn.Module):
        def forward(self, images):
            out = torch.zeros(len(images), 40, 8, 8)
            out[:, [5, 6, 33]] = 1
            return out

    labels = Predictor(Alike(), 32).predict(image())
    assert (labels == 5).all()


def test_a_penalty_moves_pixels_to_the_other_classes():
    penalty = torch.tensor([5.0, 5.0, 0.0, 0.0, 0.0])
    model = Predictor(Classifier(Colours(), embeddings()), 32)
    free, held = model.best(image(), [None, penalty])
    assert (free < 2).any()
    assert not (held < 2).any()


def test_overlay_names_what_is_there():
    labels = np.array([[0, 2], [2, 255]])
    drawn = overlay(np.zeros((2, 2, 3), np.uint8), labels, ["a", "b", "c"])
    assert drawn.size == (256, 256 + 2 * 16)
    whole = np.asarray(overlay(np.zeros((200, 90, 3), np.uint8), np.zeros((200, 90), int), ["a"]))
    assert whole.shape == (200 + 16, 120, 3)
    cells = np.asarray(drawn)[:256].reshape(2, 128, 2, 128, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    assert (cells[0, 0, :, 0] != cells[1, 0, :, 0]).any(-1).all()
    assert len({tuple(c) for c in palette(30).tolist()}) == 30


@pytest.mark.parametrize("opacity", [0.0, 0.55, 1.0])
def test_overlay_blends_every_value_of_every_class_as_the_formula_says(opacity, monkeypatch):
    monkeypatch.setattr("c2s.evaluation.overlay.BAND", 1000)
    rng, names = np.random.default_rng(0), [str(i) for i in range(171)]
    picture = rng.integers(0, 256, (300, 301, 3)).astype(np.uint8)
    labels = rng.integers(0, 256, (300, 301)).astype(np.uint8)
    expected, inside = picture.astype(np.float32), labels < 171
    colours = palette(171)[labels[inside]]
    expected[inside] = (1 - opacity) * expected[inside] + opacity * colours
    drawn = np.asarray(overlay(picture, labels, names, opacity))[:300, :301]
    assert np.array_equal(drawn, expected.astype(np.uint8))


@pytest.mark.parametrize("stride", [-1, 0, 33, 10**9])
def test_windows_that_would_leave_pixels_out_are_refused(stride):
    with pytest.raises(ConfigError, match=rf"stride={stride} .* expected 1 to 32\."):
        Predictor(Colours(), 32, stride=stride)
    Predictor(Colours(), 32, stride=32)
