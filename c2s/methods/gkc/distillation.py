"""What the queries learn of the teacher's tokens: each its own, and how it stands to those of the other segments."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Distillation = Literal["none", "vanilla", "vision", "text"]
Distance = Literal["squared", "euclidean"]


def distil(
    kind: Distillation,
    students: Float[Tensor, "M D"],
    tokens: Float[Tensor, "M D"],
    texts: Float[Tensor, "M D"],
    image: Int[Tensor, " M"],
    latent: Bool[Tensor, " M"],
    scale: Float[Tensor, ""],
    distance: Distance,
) -> Float[Tensor, ""]:
    """Distillation of M matched queries of a batch; all vectors are brought to unit norm.

    squared: the mean over own terms |z_i - R_i|^2 of all segments and pair terms (k_ij - z_i . R_j)^2 of all ordered
    pairs of one image, i = j included: Eq. 3 with squared distances, and Eq. 2 beside it. euclidean: Eq. 3 as it is
    printed, sum_ij | |z_i - R_j| - |T_i - T_j| | / N in each image, where the own term is the pair i = i.

    Args:
        kind: what tells how pairs stand to each other: nothing ("vanilla": own terms alone), R_i . R_j of the tokens
            ("vision"), or scale times T_i . T_j of the texts ("text").
        students: z.
        tokens: R, of the segments.
        texts: T, of their classes; of latent ones anything.
        image: number of the image of each.
        latent: segments of no known class: their pairs stand as their tokens do.
        scale: of the cosines of texts.
        distance: see above.
    """
    if not len(students) or kind == "none":
        return students.sum() * 0
    z, r, t = (F.normalize(v.float(), dim=-1) for v in (students, tokens, texts))
    own = (z - r).square().sum(-1)
    if kind == "vanilla":
        return own.mean() if distance == "squared" else _root(own).mean()
    same = image[:, None] == image[None]
    found, seen, said = z @ r.T, r @ r.T, t @ t.T
    unknown = latent[:, None] | latent[None]
    if distance == "squared":
        wanted = seen if kind == "vision" else torch.where(unknown, seen, scale * said)
        terms = (wanted - found).square()[same]
        return (own.sum() + terms.sum()) / (len(own) + len(terms))
    wanted = seen if kind == "vision" else torch.where(unknown, seen, said)
    terms = (_root(2 - 2 * found) - _root(2 - 2 * wanted)).abs()
    in_image = same.sum(1)  # N, for every segment
    images = (1 / in_image).sum()
    mean: Tensor = ((terms * same).sum(1) / in_image).sum() / images
    return mean


def _root(squares: Tensor) -> Tensor:
    """Square roots whose gradient is finite where there is no distance."""
    return squares.clamp(min=1e-12).sqrt()
