"""open_clip's own ViTs: a CLS token or the mean of all, or CoCa's attention pooling, then a projection."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from c2s_cache import ConfigError
from c2s_pipeline.extras import require
from c2s_pipeline.teachers.dense import TransformerTower
from c2s_pipeline.teachers.tower import DenseFeatures, one_side


class OpenClipViT(TransformerTower):
    """See `Tower`.

    Raises:
        ConfigError: it pools in another way, or projects nothing.
    """

    family = "ViT"
    prefix = 1

    def __init__(self, visual: Any, name: str) -> None:
        super().__init__(visual, name)
        second = getattr(visual, "attn_pool_contrastive", None)
        pooled = visual.pool_type in ("tok", "avg") and second is None
        if not pooled or visual.proj is None:
            raise ConfigError(
                f"teacher {name} has neither a CLS token that is projected, nor the mean of its tokens, nor one "
                "attention pooling.",
                "Choose another model: c2s teachers list",
            )
        visual.output_tokens = False
        self.blocks = visual.transformer.resblocks
        self.image_size = one_side(visual.image_size, name, "images")
        self.patch_size = one_side(visual.patch_size, name, "patches")
        self.listen()

    @property
    def dim(self) -> int:
        """See `Tower`."""
        return int(self.visual.proj.shape[1])

    @property
    def width(self) -> int:
        """See `TransformerTower`."""
        return int(self.visual.class_embedding.shape[0])

    @property
    def variants(self) -> tuple[DenseFeatures, ...]:
        """See `Tower`; an attention pooling stands before the final norm."""
        found = super().variants
        return tuple(v for v in found if self.visual.attn_pool is None or v != "unprojected")

    def at(self, size: int) -> OpenClipViT:
        """See `Tower.at`; position embeddings are interpolated as open_clip does it with a checkpoint's."""
        tower = copy.deepcopy(self.visual)
        tower.image_size = (size, size)
        tower.grid_size = tuple(size // patch for patch in tower.patch_size)
        state = {"visual.positional_embedding": self.visual.positional_embedding.detach()}
        model = require("open_clip", "build").model
        model.resize_pos_embed(state, SimpleNamespace(visual=tower))
        (positions,) = state.values()
        tower.positional_embedding = nn.Parameter(positions, requires_grad=False)
        return OpenClipViT(tower, self.name)

    def embed(self, pixels: Tensor) -> Tensor:
        """See `Tower.embed`."""
        found: Tensor = self.visual(pixels)
        return found

    def normed(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`."""
        if self.visual.attn_pool is not None:
            alone = rearrange(tokens, "b n w -> (b n) 1 w")
            pooled = self.visual.attn_pool(alone)[:, 0]  # all queries see the one token
            tokens = rearrange(pooled, "(b n) d -> b n d", b=len(tokens))
        normed: Tensor = self.visual.ln_post(tokens)
        return normed

    def projected(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`."""
        found: Tensor = tokens @ self.visual.proj
        return found
