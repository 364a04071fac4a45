"""Local distillation (Sec. III-C, Eq. 5 and 6): regions against CLIP's tokens of them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as functional
from einops import rearrange
from torch import Tensor

Negatives = Literal["image", "batch"]
Reduction = Literal["sum", "mean"]


def region_means(
    features: Tensor, pseudo: Tensor, region_ids: Tensor, max_id: int | None = None
) -> tuple[Tensor, Tensor]:
    """Local features F_l (Eq. 5): the mean of F over the pixels of each region.

    Every pixel of the pseudo mask takes the feature of the cell that contains it, so at equal
    resolution this is Eq. 5 to the letter, and at a coarser feature map it is Eq. 5 on F brought to
    the mask's resolution by nearest neighbour. It is computed from the pixel counts per cell,
    exactly, and no region vanishes however small it is.

    Args:
        features: F, float [B, D, h, w].
        pseudo: pseudo mask, int64 [B, H, W]; H and W need not be multiples of h and w.
        region_ids: int64 [B, R], ids in the pseudo mask's encoding; -1 marks a padded slot. The ids
            of one image are distinct.
        max_id: no id in `pseudo` or `region_ids` is larger; None: it is looked up.

    Returns:
        means: F_l, float [B, R, D]; zero where the region has no pixel or the slot is padded.
        counts: int64 [B, R], pixels of each region.
    """
    height, width = features.shape[-2:]
    per_cell = cell_counts(pseudo, region_ids, height, width, max_id)
    counts = per_cell.sum(-1)
    weights = per_cell.to(features.dtype) / counts.clamp(min=1)[..., None].to(features.dtype)
    means = torch.einsum("brl,bdl->brd", weights, rearrange(features, "b d h w -> b d (h w)"))
    return means, counts


def cell_counts(
    pseudo: Tensor, region_ids: Tensor, height: int, width: int, max_id: int | None = None
) -> Tensor:
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


def region_slots(pseudo: Tensor, region_ids: Tensor, max_id: int | None = None) -> Tensor:
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
    local_features: Tensor,
    local_cls: Tensor,
    valid: Tensor,
    tau: float,
    normalize: bool = True,
    reduction: Reduction = "sum",
    negatives: Negatives = "image",
    region_ids: Tensor | None = None,
    num_classes: int = 0,
) -> Tensor:
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
        reduction: "sum" over the regions of an image as printed, or their "mean".
        negatives: "image" as printed, or "batch": j runs over the regions of every image, except
            those of the same seen class in other images. Needs region_ids and num_classes.
        region_ids: int64 [B, R].
        num_classes: N; ids below it are seen classes.

    Returns:
        Scalar; 0 if no slot is valid.
    """
    if normalize:
        local_features = functional.normalize(local_features, dim=-1)
        local_cls = functional.normalize(local_cls, dim=-1)
    batch, regions = valid.shape
    if negatives == "image":
        logits = torch.einsum("bid,bjd->bij", local_features, local_cls) / tau
        allowed = valid[:, None, :].expand(batch, regions, regions)
        own = torch.einsum("bii->bi", logits)
    else:
        if region_ids is None:
            raise ValueError("negatives='batch' needs region_ids and num_classes.")
        scores = torch.einsum("bid,kjd->bikj", local_features, local_cls) / tau
        allowed = rearrange(
            _batch_negatives(region_ids, valid, num_classes), "b i k j -> b i (k j)"
        )
        own = torch.einsum("bibi->bi", scores)
        logits = rearrange(scores, "b i k j -> b i (k j)")
    # Slots without a region have no term; letting them see every column keeps their unused row
    # finite.
    hidden = ~allowed & valid[..., None]
    terms = logits.masked_fill(hidden, float("-inf")).logsumexp(-1) - own
    return reduce_regions(terms, valid, reduction)


def reduce_regions(terms: Tensor, valid: Tensor, reduction: Reduction) -> Tensor:
    """Sum or mean over the valid regions of each image, then the mean over images that have one.

    Args:
        terms: float [B, R].
        valid: bool [B, R].
        reduction: "sum" or "mean".

    Returns:
        Scalar; 0 if nothing is valid.
    """
    per_image = torch.where(valid, terms, torch.zeros_like(terms)).sum(1)
    regions = valid.sum(1)
    if reduction == "mean":
        per_image = per_image / regions.clamp(min=1)
    return per_image.sum() / (regions > 0).sum().clamp(min=1)


def _batch_negatives(region_ids: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Which region (k, j) may appear in the denominator of region (b, i): bool [B, R, B, R]."""
    batch = len(region_ids)
    same_id = region_ids[:, :, None, None] == region_ids[None, None]
    same_image = torch.eye(batch, dtype=torch.bool, device=valid.device)[:, None, :, None]
    seen = (region_ids < num_classes)[:, :, None, None]
    return valid[None, None] & ~(same_id & seen & ~same_image)
