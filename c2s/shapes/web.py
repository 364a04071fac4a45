"""The teacher's "web": captioned scenes of all classes, and batches of whole and masked views."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from c2s.shapes.scenes import CLASSES, COLOURS, SIZE, TEMPLATES, THINGS, phrase, render

MASKED_SHARE, THING_SHARE, COLOUR_SHARE = 0.7, 0.75, 0.12
MIN_PIXELS = 50


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


def _render_range(bounds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    names = list(COLOURS)
    scenes = [render("web", i) for i in range(*bounds)]
    colours = np.full((len(scenes), len(CLASSES)), -1, np.int8)
    for row, scene in enumerate(scenes):
        for name, colour in scene.colours.items():
            if colour is not None:
                colours[row, CLASSES.index(name)] = names.index(colour)
    images = np.stack([s.image for s in scenes])
    labels = np.stack([s.labels for s in scenes])
    return images, labels, colours, [s.caption for s in scenes]


def render_web(count: int) -> Web:
    """Render the first `count` web scenes in two processes."""
    step = 1000
    bounds = [(a, min(a + step, count)) for a in range(0, count, step)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_render_range, bounds))
    return Web(
        torch.from_numpy(np.concatenate([p[0] for p in parts])),
        torch.from_numpy(np.concatenate([p[1] for p in parts])),
        np.concatenate([p[2] for p in parts]),
        [caption for p in parts for caption in p[3]],
    )


class Batches:
    """Endless batches of (images uint8 [B,64,64,3], captions): whole scenes, then masked views."""

    def __init__(self, web: Web, batch_size: int, seed: int) -> None:
        self.web, self.batch_size = web, batch_size
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        pixels = torch.stack([(web.labels == c).sum((1, 2)) for c in range(len(CLASSES))], 1)
        self.rows_of = [np.flatnonzero(column >= MIN_PIXELS) for column in pixels.numpy().T]

    def __iter__(self) -> Iterator[tuple[Tensor, list[str]]]:
        masked = round(self.batch_size * MASKED_SHARE)
        while True:
            rows = self.rng.integers(len(self.web.captions), size=self.batch_size - masked)
            captions = [self.web.captions[i] for i in rows]
            images, names = self._masked(masked)
            whole = self.web.images[torch.from_numpy(rows)]
            yield mirror(torch.cat([whole, images]), self.generator), captions + names

    def _masked(self, count: int) -> tuple[Tensor, list[str]]:
        """Views of one class each on black, with captions; things are drawn more often."""
        things = self.rng.random(count) < THING_SHARE
        classes = np.where(
            things,
            self.rng.integers(len(THINGS), size=count),
            self.rng.integers(len(THINGS), len(CLASSES), size=count),
        )
        rows = np.array([self.rng.choice(self.rows_of[c]) for c in classes])
        index = torch.from_numpy(rows)
        mask = self._roughen(self.web.labels[index] == torch.from_numpy(classes)[:, None, None])
        captions = [self._name(int(c), int(r)) for c, r in zip(classes, rows, strict=True)]
        return self.web.images[index] * mask[..., None], captions

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


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random half of the images mirrored left-right; [B,S,S,3] in and out."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(2), images)
