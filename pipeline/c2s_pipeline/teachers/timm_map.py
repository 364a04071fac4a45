"""open_clip's ViTs of timm with attention ("map") pooling, where one learned query asks all tokens: SigLIP, SigLIP2,
PE-Core."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from c2s_pipeline.teachers.timm_vit import TimmViT
from c2s_pipeline.teachers.tower import DenseFeatures


class TimmMapViT(TimmViT):
    """See `Tower`."""

    family = "timm ViT, attention pooling"

    @property
    def variants(self) -> tuple[DenseFeatures, ...]:
        """See `Tower`."""
        first, *others = super().variants
        return (first, "pooled", *others)

    def normed(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`; what follows the pooling is not part of it."""
        normed: Tensor = self._trunk.norm(tokens)
        return normed

    def projected(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`."""
        return super().projected(self._trunk.fc_norm(tokens))

    def finished(self, tokens: Tensor, features: DenseFeatures) -> Tensor:
        """See `TransformerTower`; a query that sees a single token takes that token's value, whatever it asks."""
        if features != "pooled":
            return super().finished(tokens, features)
        patches = self.normed(tokens)[:, self.prefix :]
        alone = self._trunk.attn_pool(rearrange(patches, "b n w -> (b n) 1 w"))
        return self.projected(rearrange(alone, "(b n) w -> b n w", b=len(patches)))
