"""Local distillation (Sec. III-C, Eq. 5 and 6): regions against CLIP's tokens of them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as functional
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c2s.methods.feature_map import FeatureMap

Negatives = Literal["image", "batch"]
Targets = Literal["own", "teacher"]
Reduction = Literal["sum", "mean", "area"]


def region_means(
    features: FeatureMap,
    pseudo: Int[Tensor, "B H W"],
    region_ids: Int[Tensor, "B R"],
    max_id: int | None = None,
) -> tuple[Float[Tensor, "B R D"], Int[Tensor, "B R"]]:
    """Local features F_l (Eq. 5): the mean of F over the pixels of each region.

    Every pixel of the pseudo mask takes the feature of the cell that contains it, so at equal
    resolution this is Eq. 5 to the letter, and at a coarser feature map it is Eq. 5 on F brought to
    the mask's resolution by nearest neighbour. It is computed from the pixel counts per cell,
    exactly, and no region vanishes however small it is.

    Args:
        features: F, [B, D, h, w].
        pseudo: pseudo mask, int64 [B, H, W]; H and W need not be multiples of h and w.
        region_ids: int64 [B, R], ids in the pseudo mask's encoding; -1 marks a padded slot. The ids
            of one image are distinct.
        max_id: no id in `pseudo` or `region_ids` is larger; None: it is looked up.

    Returns:
        means: F_l, float [B, R, D]; zero where the region has no pixel or the slot is padded.
        counts: int64 [B, R], pixels of each region.
    """
    size = features.height, features.width
    weights, counts = region_weights(pseudo, region_ids, *size, max_id)
    return features.sums(weights.to(features.tensor.dtype)), counts


def region_weights(
    pseudo: Int[Tensor, "B H W"],
    region_ids: Int[Tensor, "B R"],
    height: int,
    width: int,
    max_id: int | None = None,
) -> tuple[Float[Tensor, "B R {height*width}"], Int[Tensor, "B R"]]:
    """Share of each region's pixels in each of the height x width cells: the weights of Eq. 5.

    Returns:
        weights: float [B, R, height * width], rows add up to 1; zero where the region has no pixel.
        counts: int64 [B, R], pixels of each region.
    """
    per_cell = cell_counts(pseudo, region_ids, height, width, max_id)
    counts = per_cell.sum(-1)
    return per_cell / counts.clamp(min=1)[..., None], counts


def cell_counts(
    pseudo: Int[Tensor, "B H W"],
    region_ids: Int[Tensor, "B R"],
    height: int,
    width: int,
    max_id: int | None = None,
) -> Int[Tensor, "B R {height*width}"]:
    """Pixels of each region in each of the height x width cells: int64 [B, R, height * width]."""
    batch, regions = region_ids.shape
    rows, cols = pseudo.shape[-2:]
    device = pseudo.device
    y = torch.arange(rows, device=device) * height // rows
    x = torch.arange(cols, device=device) * width // cols
    cell = (y[:, None] * width + x[None, :]).expand(batch, rows, cols)  # [B, H, W]
    slot = region_slots(pseudo, region_ids, max_id)  # [B, H, W], R where no region matches
    image = torch.arange(batch, device=device)[:, None, None]
    index = (image * (regions + 1) + slot) * (height * width) + cell
    # Not bincount, which makes the host wait for a GPU and is slower on a CPU as well.
    counted = torch.zeros(batch * (regions + 1) * height * width, dtype=torch.int64, device=device)
    counted.scatter_add_(0, index.flatten(), index.new_ones(1).expand(index.numel()))
    return rearrange(counted, "(b r l) -> b r l", b=batch, r=regions + 1)[:, :regions]


def region_slots(
    pseudo: Int[Tensor, "B H W"], region_ids: Int[Tensor, "B R"], max_id: int | None = None
) -> Int[Tensor, "B H W"]:
    """Slot 0..R-1 of the region each pixel belongs to, R for none: int64 [B, H, W]."""
    batch, regions = region_ids.shape
    if regions == 0:
        return torch.zeros_like(pseudo)
    # Table per image from id + 1 to slot; entry 0 stays "none", for pixels and padded slots of id
    # -1.
    if max_id is None:
        max_id = max(int(pseudo.max()), int(region_ids.max()))
    table = torch.full((batch, max_id + 2), regions, dtype=torch.int64, device=pseudo.device)
    slots = torch.arange(regions, device=pseudo.device).expand(batch, regions)
    table.scatter_(1, region_ids + 1, slots)
    table[:, 0] = regions
    return table.gather(1, rearrange(pseudo + 1, "b h w -> b (h w)")).view_as(pseudo)


def local_info_nce(
    local_features: Float[Tensor, "B R D"],
    local_cls: Float[Tensor, "B R D"],
    valid: Bool[Tensor, "B R"],
    tau: float,
    normalize: bool = True,
    reduction: Reduction = "sum",
    negatives: Negatives = "image",
    region_ids: Int[Tensor, "B R"] | None = None,
    first_latent_id: int = 0,
    same_class: float = 1.0,
    targets: Targets = "own",
    pixels: Int[Tensor, "B R"] | None = None,
) -> Float[Tensor, ""]:
    """Eq. 6 with the -log that it lacks in print.

    Per image: sum over its regions i of -log( exp(f_i^T c_i / tau) / sum_j exp(f_i^T c_j / tau) ),
    j over the regions of the same image; then the mean over the images that have a region. An image
    with one region contributes zero.

    Args:
        local_features: f, F_l, float [B, R, D].
        local_cls: c, C_l, float [B, R, D].
        valid: bool [B, R], which slots hold a region.
        tau: temperature.
        normalize: compare directions (cosine); False takes the printed dot products.
        reduction: over the regions of an image, see `reduce_regions`; printed: "sum".
        negatives: "image" as printed, or "batch": j runs over the regions of every image, except
            those of the same seen class in other images. Needs region_ids and first_latent_id.
        region_ids: int64 [B, R].
        first_latent_id: N; ids below it are seen classes.
        same_class: with batch negatives, the cosine of two CLS tokens above which regions of
            different images count as one class, whatever their ids; at 1 none do.
        targets: "own": the own token is the one right answer, as printed. "teacher": the answers are
            t_ij = softmax_j(c_i^T c_j / tau) and the term is KL(t_i || softmax_j(f_i^T c_j / tau)), so
            that a region is drawn to the others as far as its token is.
        pixels: int64 [B, R], pixels of each region, for reduction="area".

    Returns:
        Scalar; 0 if no slot is valid.
    """
    if normalize:
        local_features = functional.normalize(local_features, dim=-1)
        local_cls = functional.normalize(local_cls, dim=-1)
    batch, regions = valid.shape
    if negatives == "image":
        tokens = local_cls  # [B, C, D] with C = R
        own = torch.arange(regions, device=valid.device).expand(batch, regions)
        allowed = valid[:, None, :].expand(batch, regions, regions)
    else:
        if region_ids is None:
            raise ValueError("negatives='batch' needs region_ids and first_latent_id.")
        tokens = rearrange(local_cls, "k j d -> (k j) d").expand(batch, -1, -1)  # C = B R
        own = torch.arange(batch * regions, device=valid.device).view(batch, regions)
        allowed = _batch_negatives(region_ids, valid, first_latent_id, local_cls, same_class)
    # Slots without a region have no term; letting them see every column keeps their unused row
    # finite.
    hidden = ~allowed & valid[..., None]  # [B, R, C]
    scores = _log_softmax(local_features, tokens, tau, hidden)
    if targets == "own":
        terms = -scores.gather(-1, own[..., None])[..., 0]
    else:
        answers = _log_softmax(local_cls, tokens, tau, hidden)
        difference = (answers - scores).masked_fill(hidden, 0)
        terms = (answers.exp() * difference).sum(-1)
    return reduce_regions(terms, valid, reduction, pixels)


def reduce_regions(
    terms: Float[Tensor, "B R"],
    valid: Bool[Tensor, "B R"],
    reduction: Reduction,
    pixels: Int[Tensor, "B R"] | None = None,
) -> Float[Tensor, ""]:
    """Over the valid regions of each image, then the mean over images that have one.

    Args:
        terms: float [B, R].
        valid: bool [B, R].
        reduction: "sum", "mean", or "area": the mean weighted by the regions' pixels.
        pixels: int64 [B, R], needed for "area".

    Returns:
        Scalar; 0 if nothing is valid.
    """
    weights = valid.to(terms.dtype)
    if reduction == "area":
        if pixels is None:
            raise ValueError("reduction='area' needs the regions' pixels.")
        weights = weights * pixels
    per_image = (torch.where(valid, terms, torch.zeros_like(terms)) * weights).sum(1)
    if reduction != "sum":
        per_image = per_image / weights.sum(1).clamp(min=1)
    return per_image.sum() / valid.any(1).sum().clamp(min=1)


def _log_softmax(queries: Tensor, tokens: Tensor, tau: float, hidden: Tensor) -> Tensor:
    """log softmax of q_i^T c_j / tau over the columns that are not hidden: float [B, R, C]."""
    logits = torch.einsum("bid,bcd->bic", queries, tokens) / tau
    return logits.masked_fill(hidden, float("-inf")).log_softmax(-1)


def _batch_negatives(
    region_ids: Tensor, valid: Tensor, first_latent_id: int, local_cls: Tensor, same_class: float
) -> Tensor:
    """Which region (k, j) may be in the denominator of region (b, i): bool [B, R, B R].

    Every valid one, except regions of other images that are of the same seen class or whose tokens
    (local_cls, float [B, R, D]) have a cosine above `same_class`.
    """
    batch = len(region_ids)
    same = region_ids[:, :, None, None] == region_ids[None, None]  # [B, R, B, R]
    same = same & (region_ids < first_latent_id)[:, :, None, None]
    if same_class < 1:
        unit = functional.normalize(local_cls, dim=-1)
        same = same | (torch.einsum("bid,kjd->bikj", unit, unit) > same_class)
    elsewhere = ~torch.eye(batch, dtype=torch.bool, device=valid.device)[:, None, :, None]
    return rearrange(valid[None, None] & ~(same & elsewhere), "b i k j -> b i (k j)")
