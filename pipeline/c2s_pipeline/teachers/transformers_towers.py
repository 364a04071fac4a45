"""Image towers of transformers: CLIPModel's, SiglipModel's and Siglip2Model's."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from c2s_cache import ConfigError
from c2s_pipeline.teachers.dense import TransformerTower
from c2s_pipeline.teachers.tower import DenseFeatures


class TransformersCLIP(TransformerTower):
    """See `Tower`. `visual` is the whole model, `size` the side of its images (None: its native one)."""

    family = "transformers CLIP"
    prefix = 1

    def __init__(self, visual: Any, name: str, size: int | None = None) -> None:
        super().__init__(visual, name)
        self._tower, self._config = visual.vision_model, visual.config.vision_config
        self.blocks = self._tower.encoder.layers
        self.patch_size = int(self._config.patch_size)
        self.image_size, self._resized = size or self._native(), size is not None
        self.listen()

    def _native(self) -> int:
        """Side of the images that it was trained with."""
        return int(self._config.image_size)

    @property
    def dim(self) -> int:
        """See `Tower`."""
        return int(self.visual.config.projection_dim)

    @property
    def width(self) -> int:
        """See `TransformerTower`."""
        return int(self._config.hidden_size)

    def at(self, size: int) -> TransformersCLIP:
        """See `Tower.at`; transformers interpolates the positions in each pass."""
        return type(self)(self.visual, self.name, size)

    def embed(self, pixels: Tensor) -> Tensor:
        """See `Tower.embed`."""
        found = self.visual.get_image_features(pixels, interpolate_pos_encoding=self._resized)
        pooled: Tensor = found.pooler_output
        return pooled

    def normed(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`."""
        normed: Tensor = self._tower.post_layernorm(tokens)
        return normed

    def projected(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`."""
        found: Tensor = self.visual.visual_projection(tokens)
        return found


class TransformersSiglip(TransformersCLIP):
    """See `Tower`; its attention pooling projects nothing.

    Raises:
        ConfigError: it has no pooling.
    """

    family = "transformers SigLIP"
    prefix = 0

    def __init__(self, visual: Any, name: str, size: int | None = None) -> None:
        super().__init__(visual, name, size)
        if getattr(self._tower, "head", None) is None:
            raise ConfigError(
                f"teacher {name} has no attention pooling, so it embeds no whole image.",
                "Choose another model.",
            )

    @property
    def dim(self) -> int:
        """See `Tower`."""
        return self.width

    @property
    def variants(self) -> tuple[DenseFeatures, ...]:
        """See `Tower`."""
        first, *others = super().variants
        return (first, "pooled", *others)

    def projected(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`."""
        return tokens

    def finished(self, tokens: Tensor, features: DenseFeatures) -> Tensor:
        """See `TransformerTower`; a query that sees a single token takes that token's value."""
        patches = super().finished(tokens, features)
        if features != "pooled":
            return patches
        alone = self._tower.head(rearrange(patches, "b n w -> (b n) 1 w"))
        values: Tensor = rearrange(alone, "(b n) w -> b n w", b=len(patches))
        return values


class TransformersSiglip2(TransformersSiglip):
    """See `Tower`: NaFlex, which takes patches of any grid; here the square one that its positions were trained for."""

    family = "transformers SigLIP2 NaFlex"

    def _native(self) -> int:
        """The square grid of its positions."""
        return int(self._config.num_patches**0.5 + 0.5) * self.patch_size

    def embed(self, pixels: Tensor) -> Tensor:
        """See `Tower.embed`."""
        patch, (height, width) = self.patch_size, self.grid
        patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)
        shapes = torch.tensor([[height, width]] * len(pixels), device="cpu")  # where they are read
        found = self.visual.get_image_features(patches, spatial_shapes=shapes)  # no patch is masked
        pooled: Tensor = found.pooler_output
        return pooled
