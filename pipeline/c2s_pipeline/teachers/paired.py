"""Invariant: of two teachers one says what images and words mean, the other gives the dense features that masks are
made of; neither changes the other."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s_cache import TeacherInfo
from c2s_pipeline.teachers.base import Teacher, TeacherSpec, TextEncoder


class PairedTeacher:
    """A teacher beside another one that gives its dense features, and may have no text tower.

    Args:
        teacher: embeds images and sentences.
        mask_teacher: gives dense features.
    """

    def __init__(self, teacher: Teacher, mask_teacher: Teacher) -> None:
        self._teacher, self._masks = teacher, mask_teacher
        self.image_size, self.dim = teacher.image_size, teacher.dim
        self.mean, self.std = teacher.mean, teacher.std
        self.patch_size, self.dense_size = mask_teacher.patch_size, mask_teacher.dense_size
        self.grid, self.dense_dim = mask_teacher.grid, mask_teacher.dense_dim

    @property
    def device(self) -> torch.device:
        """See `Teacher`."""
        return self._teacher.device

    @property
    def notice(self) -> str | None:
        """See `Teacher`: of either."""
        return " ".join(filter(None, (self._teacher.notice, self._masks.notice))) or None

    @property
    def spec(self) -> TeacherSpec:
        """See `Teacher`: the first one's, with the second one's beside it."""
        masks = self._masks.spec
        return replace(
            self._teacher.spec,
            dense_size=masks.dense_size,
            dense_features=masks.dense_features,
            mask_teacher=masks,
        )

    @property
    def tower(self) -> Any:
        """The first one's image tower, if it is of a family of c2s."""
        return getattr(self._teacher, "tower", None)

    @property
    def text(self) -> TextEncoder:
        """See `Teacher`."""
        return self._teacher.text

    def info(self) -> TeacherInfo:
        """See `Teacher`; the digest covers both."""
        info, masks = self._teacher.info(), self._masks.info()
        both = hashlib.sha256(f"{info.digest} {masks.tower_digest}".encode()).hexdigest()
        return info.model_copy(
            update={
                "digest": both,
                "dense_size": masks.dense_size,
                "dense_features": masks.dense_features,
                "dense_dim": masks.dense_dim,
                "grid": masks.grid,
                "mask_teacher": masks,
            }
        )

    def embed_images(self, images: NDArray[np.uint8], batch: int | None = None) -> Tensor:
        """See `Teacher`."""
        return self._teacher.embed_images(images, batch)

    def dense(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """See `Teacher`, but that the embedding is the mask teacher's, of that one's width."""
        return self._masks.dense(images)
