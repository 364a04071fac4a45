"""A teacher of somebody's own, as a package beside c2s would bring it: colours, and letters for words."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from einops import rearrange

from c2s_cache import TeacherInfo
from c2s_pipeline.teachers.digest import teacher_digest, weights_digest

SIDE, PATCH, DIM = 16, 4, 6


class Letters:
    """A sentence is the histogram of its letters, by a fixed matrix."""

    def __init__(self, device):
        self.device = device
        self._weights = torch.linspace(0, 999, 128 * DIM, device=device).reshape(128, DIM).sin()

    @property
    def digest(self):
        return weights_digest({"letters": self._weights})

    def embed_text(self, sentences):
        counts = torch.zeros(len(sentences), 128, device=self.device)
        for row, sentence in zip(counts, sentences, strict=True):
            for letter in sentence.encode("ascii", "ignore"):
                row[letter] += 1
        return torch.nn.functional.normalize(counts @ self._weights, dim=-1)


class Colours:
    """A patch is its mean colour, by a fixed matrix; an image is the mean of its patches."""

    image_size, patch_size, dim, dense_dim = SIDE, PATCH, DIM, DIM
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    notice = None

    def __init__(self, spec, device, pool):
        self.device = device
        self.dense_size = spec.dense_size or SIDE
        self.spec = replace(spec, dense_size=self.dense_size)
        self.grid = (self.dense_size // PATCH, self.dense_size // PATCH)
        self._weights = torch.linspace(0, 9, 3 * DIM, device=device).reshape(3, DIM).cos()

    @cached_property
    def text(self):
        return Letters(self.device)

    def info(self):
        tower = weights_digest({"colours": self._weights})
        return TeacherInfo(
            name=self.spec.name,
            pretrained=self.spec.pretrained,
            digest=teacher_digest(tower, self.text.digest),
            tower_digest=tower,
            text_digest=self.text.digest,
            dim=DIM,
            image_size=SIDE,
            dense_size=self.dense_size,
            dense_dim=DIM,
            grid=self.grid,
            mean=self.mean,
            std=self.std,
        )

    def _patches(self, images):
        pixels = torch.from_numpy(np.array(images)).to(self.device).float() / 255
        pixels = (pixels - torch.tensor(self.mean)) / torch.tensor(self.std)
        patches = rearrange(pixels, "b (h p) (w q) c -> b h w (p q) c", p=PATCH, q=PATCH)
        return patches.mean(3) @ self._weights

    def embed_images(self, images, batch=None):
        return self._patches(images).mean((1, 2))

    def dense(self, images):
        patches = self._patches(images)
        return patches.mean((1, 2)), patches


class Mute(Colours):
    """It has no text tower, as a teacher of images alone."""

    def info(self):
        said = Colours(self.spec, self.device, None).info()
        digest = teacher_digest(said.tower_digest, None)
        return said.model_copy(update={"text_digest": None, "digest": digest})

    @property
    def text(self):
        from c2s_cache import ConfigError

        raise ConfigError("Mute has no text tower.")


NOT_A_CLASS = 3
