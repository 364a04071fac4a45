"""Invariant: what a teacher asks of its image tower is what stands here; how a library builds one stays in a family's
file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from c2s_cache import ConfigError

DenseFeatures = Literal[
    "plain",
    "pooled",
    "unprojected",
    "penultimate",
    "mid",
    "value",
    "maskclip",
    "qq",
    "kk",
    "vv",
    "qq-kk",
    "neighbour",
]
"""Names of the variants of dense features; see `c2s_pipeline.teachers.dense`."""


class Tower(ABC):
    """An image tower, frozen and in evaluation mode. Several threads may ask at once.

    Args:
        visual: the library's own module.
        name: of its teacher, for messages.

    Attributes:
        family: what such towers are called.
        image_size: side T in pixels of the images that it embeds.
        patch_size: side in pixels of what one cell of its dense features stands for.
    """

    family: ClassVar[str]
    image_size: int
    patch_size: int

    def __init__(self, visual: Any, name: str) -> None:
        self.visual, self.name = visual, name

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width D of its embeddings."""

    @property
    @abstractmethod
    def variants(self) -> tuple[DenseFeatures, ...]:
        """The dense features that it can give."""

    @property
    @abstractmethod
    def widest(self) -> int:
        """Numbers in about the largest activation of one image."""

    @abstractmethod
    def at(self, size: int) -> Tower:
        """The same tower for images of another size; this one is left as it is."""

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """What the library's own model says of images float [B, 3, T, T], normalised: [B, D]."""

    @abstractmethod
    def cls_and_dense(self, pixels: Tensor, features: DenseFeatures) -> tuple[Tensor, Tensor]:
        """The embeddings [B, D] of images, and one of their `variants`: [B, h w, `dense_dim`]."""

    def dense_dim(self, features: DenseFeatures) -> int:
        """Channels C of dense features."""
        return self.dim


def one_side(sides: int | Sequence[int], name: str, what: str) -> int:
    """The side of a square.

    Raises:
        ConfigError: it is none.
    """
    height, width = (sides, sides) if isinstance(sides, int) else sides
    if height != width:
        raise ConfigError(
            f"teacher {name} takes {what} of {height} x {width} pixels; c2s distils from square ones.",
            "Choose another model: c2s teachers list",
        )
    return int(height)
