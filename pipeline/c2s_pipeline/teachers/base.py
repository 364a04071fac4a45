"""Invariant: what the pipeline knows of a teacher is what stands here; a family's own ways stay in its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s_cache import ConfigError, TeacherInfo
from c2s_pipeline.teachers.clip_names import Activation, own_weights
from c2s_pipeline.teachers.dense import DenseFeatures

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class TeacherSpec:
    """What to load.

    Args:
        name: open_clip model name ("ViT-B-16") or "local-dir:PATH" of a folder in open_clip's layout.
        pretrained: weight tag, checkpoint file, or "random" (seeded, for trials and benchmarks);
            None for a local-dir, which brings its own weights.
        dense_size: input side in pixels for the dense features; None = the native size.
        dense_features: which tokens are the dense features; see `c2s_pipeline.teachers.dense`.
        precision: arithmetic of the forward pass; below float32 only on a GPU.
        activation: of a checkpoint file that does not tell; None: as the model's name says.

    Raises:
        ConfigError: a folder, which brings its own weights, is given others.
    """

    name: str
    pretrained: str | None
    dense_size: int | None = None
    dense_features: DenseFeatures = "plain"
    precision: Precision = "float32"
    activation: Activation | None = None

    def __post_init__(self) -> None:
        if own_weights(self.name) and self.pretrained is not None:
            raise ConfigError(
                f"teacher {self.name} brings its own weights, so --pretrained {self.pretrained} "
                "cannot act.",
                "Leave it out, or name an open_clip model with --teacher.",
            )


class Teacher(Protocol):
    """A frozen vision-language model. Several threads may ask at once.

    Attributes:
        spec: what was loaded.
        device: where it computes.
        notice: what the user should know of the weights; None: nothing.
        activation: what its towers compute.
        image_size: side T in pixels of the images that it embeds.
        patch_size: side of a patch in pixels.
        dense_size: side S in pixels of the images of the dense pass, a multiple of `patch_size`.
        grid: height and width (h, w) of the dense features.
        dim: width D of the joint image-text space.
        dense_dim: channels C of the dense features.
    """

    spec: TeacherSpec
    device: torch.device
    notice: str | None
    image_size: int
    patch_size: int
    dense_size: int

    @property
    def activation(self) -> Activation: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    @property
    def dim(self) -> int: ...

    @property
    def dense_dim(self) -> int: ...

    def info(self) -> TeacherInfo:
        """Facts for the manifest, among them the digest of all weights."""
        ...

    def embed_images(self, images: NDArray[np.uint8], batch: int | None = None) -> Tensor:
        """Embedding of each image in the joint space, not normalised.

        Args:
            images: uint8 [B, T, T, 3].
            batch: the most images of one pass; None: all.

        Returns:
            float32 [B, D].
        """
        ...

    def dense(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Embedding and dense features of images.

        Args:
            images: uint8 [B, S, S, 3].

        Returns:
            float32 [B, D] and float32 [B, h, w, C], neither normalised.
        """
        ...

    def tokens(self, texts: list[str]) -> Tensor:
        """Token ids int64 [n, L] of sentences."""
        ...

    def text_features(self, tokens: Tensor) -> Tensor:
        """Unit-norm text embeddings float32 [n, D] of sentences given as token ids [n, L]."""
        ...
