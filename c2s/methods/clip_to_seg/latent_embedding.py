"""Latent embedding generation (Sec. III-D): text-like embeddings A'_u for the latent classes."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Generator = Literal["transformer", "prototype", "prototype-mlp", "cls", "cls-mlp"]
Calibration = Literal["both", "global", "local"]


def latent_ids(
    pseudo: Int[Tensor, "B H W"], first_latent_id: int, max_id: int | None = None
) -> Int[Tensor, "B U"]:
    """Latent classes present in each pseudo mask.

    Args:
        pseudo: int64 [B, H, W]; latent class u is N + u.
        first_latent_id: N.
        max_id: no id in `pseudo` is larger; None: it is looked up.

    Returns:
        int64 [B, U], U the largest latent id (of the batch, or that `max_id` allows) plus one: slot u
        holds N + u if latent class u occurs in that image, else -1.
    """
    batch = len(pseudo)
    total = max((int(pseudo.max()) if max_id is None else max_id) + 1 - first_latent_id, 0)
    # 0: not latent, u + 1: latent u.
    shifted = (pseudo - first_latent_id + 1).clamp(min=0).flatten(1)
    present = torch.zeros(batch, total + 1, dtype=torch.bool, device=pseudo.device)
    present.scatter_(1, shifted, True)
    ids = torch.arange(first_latent_id, first_latent_id + total, device=pseudo.device)
    return torch.where(present[:, 1:], ids, ids.new_tensor(-1))


def tokens_of(
    ids: Int[Tensor, "B U"], region_ids: Int[Tensor, "B R"], region_cls: Float[Tensor, "B R D"]
) -> tuple[Float[Tensor, "B U D"], Bool[Tensor, "B U"]]:
    """The CLS tokens of given regions, looked up among those of the image.

    Args:
        ids: int64 [B, U], wanted ids, -1 for none.
        region_ids: int64 [B, R].
        region_cls: float [B, R, D].

    Returns:
        tokens: float [B, U, D], zero where there is none.
        found: bool [B, U].
    """
    equal = (ids[:, :, None] == region_ids[:, None, :]) & (ids >= 0)[:, :, None]  # [B, U, R]
    return torch.einsum("bur,brd->bud", equal.to(region_cls.dtype), region_cls), equal.any(-1)


class LatentEmbedding(nn.Module):
    """Generates A'_u from the local features F_u of the latent classes and the CLS tokens.

    transformer: one decoder layer; queries F_u, keys and values [C_g; C_l] (Table VII:
    `calibration` takes only one of the two). The alternatives of Table VIII: F_u as it is
    (prototype) or through an MLP (prototype-mlp), the latent class's own CLS token (cls) or that
    through an MLP (cls-mlp). A latent class without a token has no embedding under the last two.

    Args:
        dim: D.
        generator: which of the above.
        calibration: memory of the transformer.
        heads: attention heads; must divide D.
        dropout: of the decoder layer.
    """

    def __init__(
        self,
        dim: int,
        generator: Generator = "transformer",
        calibration: Calibration = "both",
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.calibration = calibration
        if generator == "transformer":
            self.decoder = nn.TransformerDecoderLayer(
                dim, heads, dim_feedforward=4 * dim, dropout=dropout, batch_first=True
            )
        elif generator.endswith("mlp"):
            self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(
        self,
        ids: Int[Tensor, "B U"],
        prototypes: Float[Tensor, "B U D"],
        global_cls: Float[Tensor, "B D"],
        region_cls: Float[Tensor, "B R D"],
        region_ids: Int[Tensor, "B R"],
    ) -> tuple[Float[Tensor, "B U D"], Bool[Tensor, "B U"]]:
        """Embeddings of the latent classes of a batch.

        Args:
            ids: int64 [B, U], latent ids, -1 in empty slots.
            prototypes: F_u, float [B, U, D].
            global_cls: C_g, float [B, D].
            region_cls: C_l, float [B, R, D].
            region_ids: int64 [B, R], -1 in padded slots.

        Returns:
            embeddings: A'_u, float [B, U, D]; zero where there is none.
            valid: bool [B, U], which slots have an embedding.
        """
        valid = ids >= 0
        if self.generator.startswith("cls"):
            out, found = tokens_of(ids, region_ids, region_cls)
            valid = valid & found
        else:
            out = prototypes
        if self.generator.endswith("mlp"):
            out = self.mlp(out)
        elif self.generator == "transformer" and ids.shape[1] > 0:
            out = self._decode(out, valid, global_cls, region_cls, region_ids >= 0)
        return torch.where(valid[..., None], out, torch.zeros_like(out)), valid

    def _decode(
        self,
        queries: Tensor,
        valid: Tensor,
        global_cls: Tensor,
        region_cls: Tensor,
        has_cls: Tensor,
    ) -> Tensor:
        always = torch.ones_like(has_cls[:, :1])
        if self.calibration == "global":
            memory, known = global_cls[:, None], always
        elif self.calibration == "local":
            memory, known = region_cls, has_cls
        else:
            memory = torch.cat([global_cls[:, None], region_cls], 1)
            known = torch.cat([always, has_cls], 1)
        if memory.shape[1] == 0:
            memory, known = torch.zeros_like(global_cls[:, None]), always
        decoded: Tensor = self.decoder(
            queries,
            memory,
            tgt_key_padding_mask=_padding(valid),
            memory_key_padding_mask=_padding(known),
        )
        return decoded


def _padding(valid: Tensor) -> Tensor:
    """Key padding mask (True = hidden). A row without a valid key hides none: a softmax over
    nothing is NaN in some attention kernels, and then in every gradient. Its slots hold zeros."""
    return ~valid & valid.any(1, keepdim=True)
