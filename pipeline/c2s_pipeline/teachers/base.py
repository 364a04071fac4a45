"""Invariant: what the pipeline knows of a teacher is what stands here; a family's own ways stay in its file.

A further family is a class with the attributes and methods of `Teacher`, made as `Class(spec, device, pool)`. It is
found by its entry point in the group `c2s.teachers`, or named as `python:MODULE:CLASS`; `c2s.testing` tests it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s_cache import ConfigError, TeacherInfo
from c2s_pipeline.teachers.clip_names import FOLDER, Activation, own_weights
from c2s_pipeline.teachers.tower import DenseFeatures

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class TeacherSpec:
    """What to load.

    Args:
        name: open_clip model name ("ViT-B-16"), "local-dir:PATH" of a folder in the layout of open_clip or of
            transformers, "hf-hub:OWNER/NAME" and "hf:OWNER/NAME" of a repository in these layouts, the name of a
            plug-in, alone or with ":" and anything after it, or "python:MODULE:CLASS".
        pretrained: weight tag, checkpoint file, or "random" (seeded, for trials and benchmarks); None: the
            family's default. A local-dir brings its own weights.
        dense_size: input side in pixels for the dense features; None = the native size.
        dense_features: which tokens are the dense features; see `c2s_pipeline.teachers.dense`.
        precision: arithmetic of the image passes; below float32 only on a GPU.
        activation: of a checkpoint file that does not tell; None: as the model's name says.
        mask_teacher: another teacher whose dense features these are (None: its own); `dense_size` and
            `dense_features` are then that one's.

    Raises:
        ConfigError: a folder, which brings its own weights, is given others.
    """

    name: str
    pretrained: str | None = None
    dense_size: int | None = None
    dense_features: DenseFeatures = "plain"
    precision: Precision = "float32"
    activation: Activation | None = None
    mask_teacher: TeacherSpec | None = None

    @property
    def location(self) -> str | None:
        """Where the weights lie on this machine, as `--teacher-weights` names it; None: their name is all there is."""
        if self.name.startswith(FOLDER):
            return f"{FOLDER}{Path(self.name.removeprefix(FOLDER)).absolute()}"
        file = Path(self.pretrained or "")
        return str(file.absolute()) if file.is_file() else None

    def __post_init__(self) -> None:
        if own_weights(self.name) and self.pretrained is not None:
            raise ConfigError(
                f"teacher {self.name} brings its own weights, so --pretrained {self.pretrained} "
                "cannot act.",
                "Leave it out, or name an open_clip model with --teacher.",
            )


class TextEncoder(Protocol):
    """The text tower of a teacher. Several threads may ask at once.

    Attributes:
        device: where it computes.
        digest: SHA-256 over its weights and its activation alone, `TeacherInfo.text_digest` of the whole teacher.
    """

    @property
    def device(self) -> torch.device: ...

    @property
    def digest(self) -> str: ...

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """Embeddings of sentences in the joint space, float32 [n, D] of unit norm; each row depends on its sentence."""
        ...


class Teacher(Protocol):
    """A frozen vision-language model. Several threads may ask at once; where a batch is cut does not depend on them.

    Attributes:
        spec: what was loaded, with nothing left to its defaults: another process loads the same by it.
        device: where it computes.
        notice: what the user should know of the weights; None: nothing.
        image_size: side T in pixels of the images that it embeds.
        patch_size: side of a patch in pixels.
        dense_size: side S in pixels of the images of the dense pass, a multiple of `patch_size`.
        grid: height and width (h, w) of the dense features.
        dim: width D of the joint image-text space.
        dense_dim: channels C of the dense features.
        mean, std: per RGB channel, by which it normalises pixels / 255 itself; regions are masked with the mean.
        text: its text tower. A family that can load that alone has a class method `load_text(spec, device)` beside it;
            one that has none raises ConfigError.
    """

    @property
    def spec(self) -> TeacherSpec: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def notice(self) -> str | None: ...
    @property
    def image_size(self) -> int: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def dense_size(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def dim(self) -> int: ...
    @property
    def dense_dim(self) -> int: ...
    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...
    @property
    def text(self) -> TextEncoder: ...

    def info(self) -> TeacherInfo:
        """Facts for the manifest, among them the digests of all weights."""
        ...

    def embed_images(self, images: NDArray[np.uint8], batch: int | None = None) -> Tensor:
        """Embedding of each image in the joint space, not normalised.

        Args:
            images: uint8 RGB [B, T, T, 3].
            batch: the most images of one pass; None: all.

        Returns:
            float32 [B, D] on `device`.
        """
        ...

    def dense(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Embedding and dense features of images, in one pass.

        Args:
            images: uint8 RGB [B, S, S, 3].

        Returns:
            float32 [B, D] and float32 [B, h, w, C] on `device`, neither normalised.
        """
        ...
