"""The teacher's "web": captioned scenes of all classes, and batches of scenes, single classes, crops and windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from c2s.shapes.crops import boxes_around, cut, inside, mainly, random_cells
from c2s.shapes.scenes import CLASSES, COLOURS, SIZE, TEMPLATES, THINGS, phrase, render
from c2s.shapes.words import TIED, reworded

THING_SHARE, COLOUR_SHARE = 0.75, 0.12
MIN_PIXELS = 50
GREY = 128
PATCHES = 8  # along a side


@dataclass(frozen=True)
class Views:
    """What a batch is made of.

    Attributes:
        split: of the scenes.
        masked, grey, crops: shares of views of one class on black, of one on grey (three in five cut to its box), and
            of unmasked crops (half of them cells, half boxes around a class). The rest are whole scenes.
        windows: squares of patches for each whole scene, which are captioned as a crop would be.
        around: share of windows that are small and lie around a patch with much of a thing; the rest lie anywhere.
        synonyms: captions have other words for classes than their names, too.
    """

    split: str
    masked: float
    grey: float = 0.0
    crops: float = 0.0
    windows: int = 0
    around: float = 0.0
    synonyms: bool = False


@dataclass
class Batch:
    """B images with captions, and W windows of the first images.

    Attributes:
        images: uint8 [B,64,64,3].
        captions: B sentences.
        denied: float32 [B,T], 1 for a word of `TIED` that is wrong of the image's thing, which has another colour.
        windows: float32 [W,64], the share of each patch in the mean of a window.
        owners: int64 [W], the image of each window.
        window_captions: W sentences.
    """

    images: Tensor
    captions: list[str]
    denied: Tensor
    windows: Tensor
    owners: Tensor
    window_captions: list[str]


@dataclass
class Web:
    """A pool of N scenes.

    Attributes:
        images: uint8 [N,64,64,3].
        labels: uint8 [N,64,64].
        colours: int8 [N,C], index into COLOURS of each class's colour, -1 for none.
        captions: N sentences.
    """

    images: Tensor
    labels: Tensor
    colours: np.ndarray
    captions: list[str]


def _render_range(
    split: str, bounds: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    names = list(COLOURS)
    scenes = [render(split, i) for i in range(*bounds)]
    colours = np.full((len(scenes), len(CLASSES)), -1, np.int8)
    for row, scene in enumerate(scenes):
        for name, colour in scene.colours.items():
            if colour is not None:
                colours[row, CLASSES.index(name)] = names.index(colour)
    images = np.stack([s.image for s in scenes])
    labels = np.stack([s.labels for s in scenes])
    return images, labels, colours, [s.caption for s in scenes]


def render_web(split: str, count: int) -> Web:
    """Render the first `count` scenes of a split in two processes."""
    step = 1000
    bounds = [(a, min(a + step, count)) for a in range(0, count, step)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(partial(_render_range, split), bounds))
    return Web(
        torch.from_numpy(np.concatenate([p[0] for p in parts])),
        torch.from_numpy(np.concatenate([p[1] for p in parts])),
        np.concatenate([p[2] for p in parts]),
        [caption for p in parts for caption in p[3]],
    )


class Batches:
    """Endless batches: whole scenes, then classes on black, on grey, and crops."""

    def __init__(self, web: Web, views: Views, batch_size: int, seed: int) -> None:
        self.web, self.views, self.batch_size = web, views, batch_size
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        pixels = torch.stack([(web.labels == c).sum((1, 2)) for c in range(len(CLASSES))], 1)
        self.denied = denied(web.colours)
        self.rows_of = [np.flatnonzero(column >= MIN_PIXELS) for column in pixels.numpy().T]

    def __iter__(self) -> Iterator[Batch]:
        v = self.views
        masked, grey, crops = (round(self.batch_size * s) for s in (v.masked, v.grey, v.crops))
        while True:
            rows = self.rng.integers(
                len(self.web.captions), size=self.batch_size - masked - grey - crops
            )
            index = torch.from_numpy(rows)
            captions = [self._worded(self.web.captions[r], r) for r in rows]
            parts, places = [self.web.images[index]], [index]
            for view, count in ((self._masked, masked), (self._grey, grey), (self._crops, crops)):
                if count:
                    images, where, names = view(count)
                    parts.append(images)
                    places.append(where)
                    captions += names
            pixels = torch.cat(parts)
            # Labels are mirrored with their images, as a fourth channel: the windows are named by them.
            labels = torch.zeros_like(pixels[..., :1])
            labels[: len(rows), ..., 0] = self.web.labels[index]
            mirrored = mirror(torch.cat([pixels, labels], -1), self.generator)
            yield Batch(
                mirrored[..., :3].contiguous(),
                captions,
                self.denied[torch.cat(places)],
                *self._windows(mirrored[: len(rows), ..., 3].numpy(), rows),
            )

    def _masked(self, count: int) -> tuple[Tensor, Tensor, list[str]]:
        """Views of one class each on black, the rows of their scenes, captions; things are drawn more often."""
        rows, mask, captions = self._classes(count)
        return self.web.images[rows] * mask[..., None], rows, captions

    def _grey(self, count: int) -> tuple[Tensor, Tensor, list[str]]:
        """The same on grey, three in five of them cut to the box of the class."""
        rows, mask, captions = self._classes(count)
        views = torch.where(mask[..., None], self.web.images[rows], GREY)
        boxes = boxes_around(mask)
        whole = torch.rand(count, generator=self.generator) >= 0.6
        boxes[whole] = torch.tensor([0.0, 0.0, SIZE, SIZE])
        return cut(views, boxes), rows, captions

    def _crops(self, count: int) -> tuple[Tensor, Tensor, list[str]]:
        """Unmasked crops: cells anywhere, and boxes around a class."""
        around, mask, _ = self._classes(count // 2)
        cells = count - len(around)
        anywhere = torch.from_numpy(self.rng.integers(len(self.web.captions), size=cells))
        rows = torch.cat([around, anywhere])
        boxes = torch.cat([boxes_around(mask), random_cells(self.rng, cells)])
        captions = [
            self._mainly(inside(self.web.labels[r].numpy(), box), int(r))
            for r, box in zip(rows, boxes.numpy(), strict=True)
        ]
        return cut(self.web.images[rows], boxes), rows, captions

    def _windows(self, labels: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor, list[str]]:
        """Squares of patches of the scenes (side 1 to 4; around things 1 to 3), captioned with what is mainly there."""
        count = self.views.windows * len(rows)
        windows, captions = np.zeros((count, PATCHES, PATCHES), np.float32), []
        owners = np.repeat(np.arange(len(rows)), self.views.windows)
        step = SIZE // PATCHES
        weights = _thing_weights(labels)
        for window, owner in zip(windows, owners, strict=True):
            if self.rng.random() < self.views.around and weights[owner].any():
                side = int(self.rng.integers(1, 4))
                patch = self.rng.choice(PATCHES**2, p=weights[owner])
                corner = np.array(divmod(patch, PATCHES)) - self.rng.integers(side, size=2)
                y, x = corner.clip(0, PATCHES - side)
            else:
                side = int(self.rng.integers(1, 5))
                y, x = self.rng.integers(PATCHES + 1 - side, size=2)
            window[y : y + side, x : x + side] = 1 / side**2
            box = np.array([x, y, x + side, y + side]) * step
            captions.append(self._mainly(inside(labels[owner], box), int(rows[owner])))
        flat = rearrange(torch.from_numpy(windows), "w y x -> w (y x)")
        return flat, torch.from_numpy(owners), captions

    def _classes(self, count: int) -> tuple[Tensor, Tensor, list[str]]:
        """Rows of scenes, roughened masks bool [n,64,64] of a class in each, and captions of these."""
        things = self.rng.random(count) < THING_SHARE
        classes = np.where(
            things,
            self.rng.integers(len(THINGS), size=count),
            self.rng.integers(len(THINGS), len(CLASSES), size=count),
        )
        rows = np.array([self.rng.choice(self.rows_of[c]) for c in classes])
        index = torch.from_numpy(rows)
        mask = self._roughen(self.web.labels[index] == torch.from_numpy(classes)[:, None, None])
        captions = [
            self._worded(self._name(int(c), int(r)), int(r))
            for c, r in zip(classes, rows, strict=True)
        ]
        return index, mask, captions

    def _worded(self, caption: str, row: int) -> str:
        if not self.views.synonyms:
            return caption
        return reworded(self.rng, caption, self.web.colours[row])

    def _mainly(self, labels: np.ndarray, row: int) -> str:
        """A caption of what is mainly visible in a part of a scene: "a red star on sand"."""
        ids = sorted(mainly(labels))  # things come first
        words = [self._phrase(i, row) for i in ids]
        on = len(ids) == 2 and ids[0] < len(THINGS) <= ids[1]
        text = (" on " if on else " and ").join(words)
        caption = TEMPLATES[self.rng.integers(len(TEMPLATES))].format(text)
        return self._worded(caption, row)

    def _phrase(self, index: int, row: int) -> str:
        if index >= len(THINGS):
            return CLASSES[index]
        colour = int(self.web.colours[row, index])
        coloured = colour >= 0 and self.rng.random() < COLOUR_SHARE
        return phrase(CLASSES[index], list(COLOURS)[colour] if coloured else None)

    def _name(self, index: int, row: int) -> str:
        colour = int(self.web.colours[row, index])
        if colour >= 0 and self.rng.random() < COLOUR_SHARE:
            words = phrase(CLASSES[index], list(COLOURS)[colour])
        elif self.rng.random() < 0.5:
            return f"a photo of a {CLASSES[index]}"  # the usual prompt, article and all
        else:
            words = phrase(CLASSES[index]) if index < len(THINGS) else CLASSES[index]
        return TEMPLATES[self.rng.integers(len(TEMPLATES))].format(words)

    def _roughen(self, mask: Tensor) -> Tensor:
        """Masks bool [n,64,64] as clustering gives them: exact, blocky, partial or too wide."""
        n = len(mask)
        kind = torch.rand(n, generator=self.generator)
        soft = mask[:, None].float()
        rough = mask.clone()
        for cell, low, high in ((8, 0.60, 0.68), (4, 0.68, 0.80)):
            cover = F.avg_pool2d(soft, cell)
            keep = cover > 0.25 + 0.35 * torch.rand(n, 1, 1, 1, generator=self.generator)
            keep &= torch.rand(keep.shape, generator=self.generator) > 0.1
            block = keep.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[:, 0]
            chosen = (kind >= low) & (kind < high)
            rough[chosen] = block[chosen]
        angle = 2 * math.pi * torch.rand(n, 1, 1, generator=self.generator)
        axis = torch.arange(SIZE) - SIZE / 2
        x = axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin()
        centre = (x * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
        shift = 8 * torch.rand(n, 1, 1, generator=self.generator)
        half = mask & (x > centre[:, None, None] - shift)
        chosen = (kind >= 0.80) & (kind < 0.92)
        rough[chosen] = half[chosen]
        wide = F.max_pool2d(soft, 5, 1, 2)[:, 0] > 0
        rough[kind >= 0.92] = wide[kind >= 0.92]
        lost = rough.sum((1, 2)) < MIN_PIXELS // 2
        rough[lost] = mask[lost]
        return rough


def _thing_weights(labels: np.ndarray) -> np.ndarray:
    """Chance of each patch by the squared share of things in it: [n,64,64] -> float64 [n,64]; zeros without any."""
    things = rearrange(labels < len(THINGS), "n (y a) (x b) -> n (y x) (a b)", y=PATCHES, x=PATCHES)
    shares: np.ndarray = things.mean(-1) ** 2
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-12)
    return shares


def denied(colours: np.ndarray) -> Tensor:
    """Which words of `TIED` are wrong of a scene's things: colours int8 [N,C] as in `Web` -> float32 [N,T]."""
    names = list(COLOURS)
    out = np.zeros((len(colours), len(TIED)), np.float32)
    for thing, fitting in enumerate(TIED.values()):
        right = np.isin(colours[:, thing], [names.index(colour) for colour in fitting])
        out[:, thing] = (colours[:, thing] >= 0) & ~right
    return torch.from_numpy(out)


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random half of the images mirrored left-right; [B,S,S,3] in and out."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(2), images)
