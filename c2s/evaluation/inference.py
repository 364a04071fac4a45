"""Invariant: every pixel gets the class of the best score at its place; all scores are never held at its size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from c2s.evaluation.classifier import Classifier
from c2s.plain_torch import plain_torch
from c2s.students.base import normalize_images
from c2s_cache.errors import C2SError, ConfigError

Place = tuple[slice, slice]
Window = tuple[Place, Tensor]
"""Rows and columns of a window on the resized image, and its scores [1, K, h, w] (features [1, D, h, w])."""
Mode = Literal["slide", "whole"]
MULTIPLE = 32
"""Whole images are resized to multiples of the coarsest stride of the usual backbones."""
STRIDE = 426 / 512
"""Stride of the sliding window as a fraction of the window, of the ZegCLIP family."""
WINDOWS = 4
"""Windows of an image that go through the model together on a GPU; most photos have two to four. On a CPU
they go one by one: of SegFormer-B0 at 512 pixels, three together took 1.25 s of one core, one by one 1.07."""
CLASSES, FEW, LARGE = 16, 4, 2**16
"""Classes whose scores are brought to pixels together; few of them on a CPU for images of so many pixels,
where their scores stay in its cache.

Which of its kernels torch brings them with, and so the last bit, depends on the number of classes (three or
fewer), on whether they are stored last, and on whether the result is small. `_groups` never makes three of
more, few are taken only where none of that matters, and 16 are whole vectors: every class gets the very bits
that it would get together with all others."""

LONGEST = 16
"""Times the short side that an image may be long; a longer one is cut, so that no strip takes the memory of all that
its short side is brought to."""

BAND = 2**22
"""Pixels whose best classes are looked for together."""


class ScoresError(C2SError):
    """A model's scores are not finite numbers."""


@dataclass(frozen=True)
class Predictor:
    """Segments images with a model that scores classes.

    Images are resized, keeping their proportions, to a short side of `short_side` (the family's test
    scale of (2048, 512) with short side never below 512). slide: windows of crop x crop at distance
    `stride`, the last one flush with the border; scores averaged where windows overlap. whole: one
    pass, sides rounded up to multiples of 32. Scores are the model's (cosines, or the logits of a
    folded student), brought to the original size bilinearly.

    Attributes:
        model: scores [B, K, h, w] of normalised images [B, 3, H, W], at its own resolution; in
            evaluation mode, on `device`.
        crop: side of the training views in pixels.
        mode: "slide" or "whole".
        device: where to compute.
        stride: of the sliding window in pixels, 1 to `crop`; None: round(crop * 426 / 512).
        short_side: in pixels, at least `crop`; None: `crop`.
        windows: of one image, at most, that go through the model in one pass; None: 4 on a GPU, else 1.
        remedy: what to do where the model's scores are not finite.

    Raises:
        ConfigError: windows so far apart would leave pixels in none.
    """

    model: nn.Module
    crop: int
    mode: Mode = "slide"
    device: torch.device | str = "cpu"
    stride: int | None = None
    short_side: int | None = None
    windows: int | None = None
    remedy: str = "Train it again."

    def __post_init__(self) -> None:
        if self.stride is not None and not 1 <= self.stride <= self.crop:
            raise ConfigError(
                f"stride={self.stride} of a sliding window of {self.crop} pixels would leave pixels in no "
                f"window; expected 1 to {self.crop}."
            )

    @torch.inference_mode()
    @plain_torch()
    def scores(self, image: NDArray[np.uint8]) -> Tensor:
        """Class scores of an image at its own size, all at once: K times the memory of `best`.

        Args:
            image: uint8 RGB [H, W, 3].

        Returns:
            float32 [K, H, W], as the model gives them: NaN where it does.
        """
        return torch.cat(list(self._by_classes(self._windows(image), image.shape[:2])))

    def predict(self, image: NDArray[np.uint8], name: str = "the image") -> NDArray[np.int64]:
        """Best class of every pixel: int64 [H, W] of an image uint8 [H, W, 3]; see `best`."""
        labels: NDArray[np.int64] = self.best(image, [None], name)[0].astype(np.int64)
        return labels

    def top(
        self, image: NDArray[np.uint8], name: str = "the image"
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Best class of every pixel, int16 [H, W], and its score, float32 [H, W]; see `best`."""
        parts = list(self._parts(image, [None], name))
        along = 1 + int(image.shape[1] > image.shape[0])
        labels, tops = (np.concatenate(each, along)[0] for each in zip(*parts, strict=True))
        return labels, tops

    def best(
        self, image: NDArray[np.uint8], penalties: Sequence[Tensor | None], name: str = "the image"
    ) -> NDArray[np.int16]:
        """Best class of every pixel under each of several penalties, from one pass of the model.

        The scores at the image's size are looked at a few classes at a time and never held together. A strip goes
        through the model in parts, each with one short side more at its ends.

        Args:
            image: uint8 RGB [H, W, 3].
            penalties: float32 [K] on `device` each, subtracted from the scores (infinite: never
                predicted); None: nothing is.
            name: of the image, for the message.

        Returns:
            int16 [len(penalties), H, W]; of equal scores, the first class.

        Raises:
            ScoresError: a score is not finite.
        """
        along = 1 + int(image.shape[1] > image.shape[0])
        return np.concatenate([labels for labels, _ in self._parts(image, penalties, name)], along)

    @torch.inference_mode()
    @plain_torch()
    def best_of_clip(
        self,
        images: Sequence[NDArray[np.uint8]],
        penalties: Sequence[Tensor | None],
        name: str = "the clip",
    ) -> list[NDArray[np.int16]]:
        """As `best`, of frames that the model looks at together, window by window; strips are not cut.

        Args:
            images: uint8 RGB [H, W, 3] each, of one size.
            penalties, name: see `best`.

        Raises:
            ConfigError: the frames are not of one size.
            ScoresError: a score is not finite.
        """
        if len({image.shape for image in images}) > 1:
            raise ConfigError(
                f"The frames from {name} on are not of one size.",
                "Put those of each clip into a folder of their own, or drop --frames.",
            )
        assert isinstance(self.model, Classifier)
        inputs, places = zip(*(self._placed(image) for image in images), strict=True)
        held = [
            (at, self.model.clip(torch.cat([frame[..., *at] for frame in inputs])).float())
            for at in places[0]
        ]
        return [
            self._best([(at, scores[i : i + 1]) for at, scores in held], image, penalties, name)[0]
            for i, image in enumerate(images)
        ]

    def _parts(
        self, image: NDArray[np.uint8], penalties: Sequence[Tensor | None], name: str
    ) -> Iterator[tuple[NDArray[np.int16], NDArray[np.float32]]]:
        """What `_best` gives for the parts of a strip, or for all of another image."""
        height, width = image.shape[:2]
        along = int(width > height)
        short, length = min(height, width), max(height, width)
        step = LONGEST * short if length > LONGEST * short else length
        for first in range(0, length, step):
            start, stop = max(0, first - short), min(length, first + step + short)
            part = image.swapaxes(0, along)[start:stop].swapaxes(0, along)
            labels, tops = self._best(self._windows(part), part, penalties, name)
            own = [slice(None)] * 3
            own[1 + along] = slice(first - start, first - start + step)
            yield labels[*own], tops[*own]

    @torch.inference_mode()
    @plain_torch()
    def _best(
        self,
        windows: Sequence[Window],
        image: NDArray[np.uint8],
        penalties: Sequence[Tensor | None],
        name: str,
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """The best classes of an image of these windows, and their scores, float32 [len(penalties), H, W]."""
        finite = torch.stack([v for _, held in windows for v in held.aminmax()]).isfinite().all()
        height, width = image.shape[:2]
        tops = torch.full((len(penalties), height, width), -torch.inf, device=self.device)
        labels = torch.zeros(tops.shape, dtype=torch.int16, device=self.device)
        first, band = 0, max(1, BAND // width)
        for scores in self._by_classes(windows, (height, width)):
            here = slice(first, first + len(scores))
            for (i, penalty), row in product(enumerate(penalties), range(0, height, band)):
                part = scores[:, row : row + band]
                held = part if penalty is None else part - penalty[here, None, None]
                (top, ids), at = held.max(0), (i, slice(row, row + band))
                labels[at] = torch.where(top > tops[at], ids + first, labels[at])
                tops[at] = torch.maximum(top, tops[at])
            first = here.stop
            del scores, part, held  # before the next ones are made
        if not finite:
            raise ScoresError(
                f"The model's scores of {name} are not finite numbers: its weights are damaged, or its "
                "training came apart.",
                self.remedy,
            )
        return labels.cpu().numpy(), tops.cpu().numpy()

    @torch.inference_mode()
    @plain_torch()
    def _windows(self, image: NDArray[np.uint8]) -> list[Window]:
        """What is held of every window at the model's resolution; "whole": of the one that is all."""
        images, places = self._placed(image)
        together = self.windows or (WINDOWS if images.is_cuda else 1)
        found: list[Window] = []
        for first in range(0, len(places), together):
            group = places[first : first + together]
            inputs = torch.cat([images[..., *at] for at in group])
            held = self._late.encode(inputs) if self._late else self.model(inputs).float()
            found += [(at, held[i : i + 1]) for i, at in enumerate(group)]
        return found

    def _placed(self, image: NDArray[np.uint8]) -> tuple[Tensor, list[Place]]:
        """The resized image, normalised, [1, 3, H, W], and where its windows lie."""
        short = max(self.short_side or self.crop, self.crop)
        height, width = resized(image.shape[0], image.shape[1], short)
        if self.mode == "whole":
            height, width = (-(-v // MULTIPLE) * MULTIPLE for v in (height, width))
        pixels = np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        )
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(self.device)
        images = normalize_images(tensor, self.model)
        sides = (height, width) if self.mode == "whole" else (self.crop, self.crop)
        places = [
            (slice(top, top + sides[0]), slice(left, left + sides[1]))
            for top in window_starts(height, sides[0], self.stride)
            for left in window_starts(width, sides[1], self.stride)
        ]
        return images, places

    def _by_classes(self, windows: Sequence[Window], size: Sequence[int]) -> Iterator[Tensor]:
        """Scores float32 [k, H, W] at the image's size (H, W), a few classes after the other."""
        count = self._late.classes if self._late else windows[0][1].shape[1]
        for group in _groups(count, CLASSES):
            total = self._joined(windows, group)
            large = math.prod(size) >= LARGE and total.is_contiguous() and not total.is_cuda
            for part in _groups(total.shape[1], FEW if large else CLASSES):
                yield _resize_bilinear(_some(total, part), size[0], size[1])[0]

    def _joined(self, windows: Sequence[Window], classes: slice) -> Tensor:
        """Scores [1, k, h, w] of some classes on the resized image, averaged where windows overlap."""
        (rows, columns), held = windows[-1]
        if self.mode == "whole":
            return _resize_bilinear(self._scored(held, classes), rows.stop, columns.stop)
        visits = held.new_zeros(rows.stop, columns.stop)
        total = held.new_zeros(1, classes.stop - classes.start, *visits.shape)
        for place, each in windows:
            total[..., *place] += _resize_bilinear(
                self._scored(each, classes), self.crop, self.crop
            )
            visits[place] += 1
        return total / visits

    @property
    def _late(self) -> Classifier | None:
        """The model, if windows are held as features, from which it scores a few classes at a time."""
        return self.model if isinstance(self.model, Classifier) and self.model.late else None

    def _scored(self, held: Tensor, classes: slice) -> Tensor:
        """Scores [1, k, h, w] of some classes in a window."""
        return self._late.score(held, classes) if self._late else _some(held, classes)


def _groups(count: int, size: int) -> Iterator[slice]:
    """So many classes in groups of `size`; three or fewer that are left join the last group."""
    first = 0
    while first < count:
        last = first + size if count - first - size > 3 else count
        yield slice(first, last)
        first = last


def _some(scores: Tensor, classes: slice) -> Tensor:
    """Scores [1, k, h, w] of some of the classes [1, K, h, w], in the same order in memory."""
    part, last = scores[:, classes], torch.channels_last
    stored_last = scores.is_contiguous(memory_format=last) and not scores.is_contiguous()
    return part.contiguous(memory_format=last) if stored_last else part


def _resize_bilinear(scores: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(scores, (height, width), mode="bilinear", align_corners=False)


def resized(height: int, width: int, short: int) -> tuple[int, int]:
    """Size with the short side brought to `short` and the proportions kept."""
    scale = short / min(height, width)
    return max(short, int(height * scale + 0.5)), max(short, int(width * scale + 0.5))


def window_starts(length: int, crop: int, stride: int | None = None) -> list[int]:
    """Starts of the windows along one axis; they cover it, and the last one ends at its end.

    Args:
        length: of the axis, at least `crop`.
        crop: side of the window.
        stride: None: round(crop * 426 / 512).
    """
    stride = stride or max(1, round(crop * STRIDE))
    count = -(-max(length - crop, 0) // stride) + 1
    return [min(i * stride, length - crop) for i in range(count)]
