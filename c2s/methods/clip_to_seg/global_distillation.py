"""Global distillation (Sec. III-C, Eq. 4): the feature map against CLIP's global CLS."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from c2s.methods.feature_map import FeatureMap

Aggregation = Literal["attention", "mean", "max"]
Distillation = Literal["infonce", "cosine", "l2", "residual"]
GlobalNegatives = Literal["bank", "both"]


def aggregate(
    features: FeatureMap, global_cls: Float[Tensor, "B D"], how: Aggregation = "attention"
) -> Float[Tensor, "B D"]:
    """Global feature F_g of each feature map.

    attention: W = softmax(C_g^T F / sqrt(D)) over the L = h * w positions, F_g = W F^T, with C_g
    and F as they are (unit vectors would make the softmax almost uniform). mean and max (Table XI)
    pool every channel over the positions and do not look at C_g.

    Args:
        features: F, [B, D, h, w].
        global_cls: C_g, float [B, D].
        how: the aggregation.

    Returns:
        F_g, float [B, D].
    """
    if how == "max":
        return features.tensor.amax((2, 3))
    return features.sums(aggregation_weights(features, global_cls, how)[:, None])[:, 0]


def aggregation_weights(
    features: FeatureMap,
    global_cls: Float[Tensor, "B D"],
    how: Literal["attention", "mean"] = "attention",
) -> Float[Tensor, "B L"]:
    """W of `aggregate`: float [B, h * w], rows add up to 1."""
    if how == "mean":
        cells = features.height * features.width
        return global_cls.new_full((len(global_cls), cells), 1 / cells)
    scores: Tensor = features.products(global_cls[:, None])[:, 0] / global_cls.shape[1] ** 0.5
    return scores.softmax(-1)


def info_nce(
    query: Float[Tensor, "B D"],
    positive: Float[Tensor, "B D"],
    negatives: Float[Tensor, "M D"] | Float[Tensor, "B M D"],
    tau: float,
    normalize: bool = True,
) -> Float[Tensor, ""]:
    """InfoNCE, Eq. 4 with the -log that it lacks in print.

    -log( exp(q^T p / tau) / (exp(q^T p / tau) + sum_j exp(q^T n_j / tau)) ), mean over the queries.

    Args:
        query: F_g, float [B, D].
        positive: own C_g of each query, float [B, D].
        negatives: tokens C_j shared by all queries [M, D], or per query [B, M, D]; M may be 0.
        tau: temperature.
        normalize: compare directions (cosine); False takes the printed dot products.

    Returns:
        Scalar.
    """
    if normalize:
        query, positive, negatives = (
            functional.normalize(t, dim=-1) for t in (query, positive, negatives)
        )
    if negatives.ndim == 2:
        negatives = negatives.expand(len(query), *negatives.shape)
    pull = torch.einsum("bd,bd->b", query, positive)
    push = torch.einsum("bd,bmd->bm", query, negatives)
    logits = torch.cat([pull[:, None], push], dim=1) / tau
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def others(tokens: Float[Tensor, "B D"]) -> Float[Tensor, "B B-1 D"]:
    """For each row of a batch [B, D], the other rows: [B, B - 1, D]."""
    row = torch.arange(len(tokens), device=tokens.device)
    column = row[:-1].expand(len(tokens), -1)
    return tokens[column + (column >= row[:, None])]  # no mask: a GPU would have to be waited for


def match(
    student: Float[Tensor, "*rows D"],
    teacher: Float[Tensor, "*rows D"],
    kind: Literal["cosine", "l2"],
) -> Float[Tensor, "*rows"]:
    """The two plain distillations of Table VI, per pair of vectors.

    cosine: 1 - cos(student, teacher). l2: squared difference, mean over the D channels.

    Args:
        student: float [..., D].
        teacher: float [..., D].
        kind: which of the two.

    Returns:
        float [...].
    """
    if kind == "cosine":
        return 1 - functional.cosine_similarity(student, teacher, dim=-1)
    return (student - teacher).square().mean(-1)


class CLSBank(nn.Module):
    """First-in first-out memory of the global CLS tokens of earlier iterations (the set V of Eq.
    4).

    All of its state is in buffers, so a checkpoint holds it; the host counts along, so that no step has
    to ask the device how many tokens there are. Under several processes every process
    enqueues the tokens of all, in rank order, and the banks stay equal.

    Args:
        size: number of tokens kept; 0 gives an empty bank.
        dim: D.
    """

    tokens: Tensor
    written: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size, self._count = size, 0
        self.register_buffer("tokens", torch.zeros(size, dim))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def filled(self) -> Float[Tensor, "M D"]:
        """The tokens held now, float32 [M, D], M <= size; the order is of no meaning."""
        return self.tokens[: min(self._count, self.size)]

    @torch.no_grad()
    def enqueue(self, global_cls: Float[Tensor, "B D"]) -> None:
        """Add tokens [B, D], the first row being the oldest; the oldest in the bank make room."""
        if self.size == 0:
            return
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            parts = [torch.empty_like(global_cls) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, global_cls.contiguous())
            global_cls = torch.cat(parts)
        total = self._count + len(global_cls)
        kept = global_cls[-self.size :]
        slots = torch.arange(total - len(kept), total, device=kept.device) % self.size
        self.tokens[slots] = kept.detach().to(self.tokens.dtype)
        self.written.fill_(total)
        self._count = total

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._count = int(self.written)
