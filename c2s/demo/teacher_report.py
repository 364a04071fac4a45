"""What the demo's teacher can do, measured on held-out scenes: zero-shot accuracy and dense clustering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor

from c2s.demo.scenes import CLASSES, MIN_AREA, SIZE, UNSEEN, render

UNSEEN_IDS = [CLASSES.index(name) for name in UNSEEN]


def load(folder: Path) -> tuple[Any, Tensor, Any]:
    """The model, its class embeddings "a photo of a {}" [C,D], and a function uint8 [B,H,W,3] -> input."""
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    config = open_clip.get_model_preprocess_cfg(model)
    mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])

    def prepare(images: Tensor) -> Tensor:
        return rearrange((images.float() / 255 - mean) / std, "b h w c -> b c h w")

    with torch.inference_mode():
        text = model.encode_text(tokenizer([f"a photo of a {name}" for name in CLASSES]), normalize=True)
    return model, text, prepare


@torch.inference_mode()
def dense_tokens(model: Any, images: Tensor) -> Tensor:
    """Last-layer patch tokens after the final norm and projection: [B,3,S,S] -> [B,h,w,D], any S."""
    visual = model.visual
    x = rearrange(visual.conv1(images), "b c h w -> b h w c")
    h, w = x.shape[1:3]
    position = visual.positional_embedding
    side = visual.grid_size[0]
    grid = rearrange(position[1:], "(h w) c -> 1 c h w", h=side)
    if (h, w) != (side, side):
        grid = F.interpolate(grid, (h, w), mode="bicubic", align_corners=False)
    x = rearrange(x + rearrange(grid, "1 c h w -> 1 h w c"), "b h w c -> b (h w) c")
    first = (visual.class_embedding + position[0]).expand(len(x), 1, -1)
    x = visual.transformer(visual.ln_pre(torch.cat([first, x], 1)))
    return rearrange(visual.ln_post(x[:, 1:]) @ visual.proj, "b (h w) c -> b h w c", h=h)


def cluster(tokens: Tensor, free: Tensor, merge: float) -> Tensor:
    """Seeded K-means over the free tokens of one image, then merging by cosine. tokens [h,w,D], free bool [h,w].

    Seeds are the window means of the paper (windows 3 and 7). Returns int64 [h,w], -1 where not free.
    """
    h, w, _ = tokens.shape
    masked = rearrange(tokens * free[..., None], "h w c -> 1 c h w")
    seeds = []
    for k in (3, 7):
        stops_y = sorted({*range(0, h - k + 1, max(k // 2, 1))})
        stops_x = sorted({*range(0, w - k + 1, max(k // 2, 1))})
        seeds += [
            masked[0, :, y : y + k, x : x + k].mean((1, 2))
            for y in stops_y for x in stops_x if free[y : y + k, x : x + k].any()
        ]  # fmt: skip
    points, centres = tokens[free], torch.stack(seeds)
    for _ in range(10):
        nearest = torch.cdist(points, centres).argmin(1)
        used = nearest.unique()
        centres = torch.stack([points[nearest == u].mean(0) for u in used])
    nearest = torch.cdist(points, centres).argmin(1)
    close = F.normalize(centres, dim=1) @ F.normalize(centres, dim=1).T > merge
    group = torch.full((len(centres),), -1)
    for i in range(len(centres)):
        if group[i] < 0:
            group[close[i] & (group < 0)] = i
    out = torch.full((h, w), -1)
    out[free] = group[nearest]
    return out


def region_accuracy(folder: Path, scenes: int, split: str = "dev") -> dict[str, Any]:
    """Top-1 accuracy in per cent on ground-truth regions (zero fill, full frame) against all classes."""
    model, text, prepare = load(folder)
    right: dict[int, list[bool]] = {c: [] for c in range(len(CLASSES))}
    for index in range(scenes):
        scene = render(split, index)
        counts = np.bincount(scene.labels.ravel(), minlength=len(CLASSES))
        classes = np.flatnonzero(counts >= MIN_AREA * SIZE * SIZE)
        views = np.stack([scene.image * (scene.labels == c)[..., None] for c in classes])
        with torch.inference_mode():
            top = (model.encode_image(prepare(torch.from_numpy(views))) @ text.T).argmax(1).tolist()
        for c, guess in zip(classes, top, strict=True):
            right[int(c)].append(guess == c)
    every = [hit for hits in right.values() for hit in hits]
    return {
        "region_top1": round(100 * float(np.mean(every)), 2),
        "by_class": {CLASSES[c]: round(100 * float(np.mean(hits)), 1) for c, hits in right.items() if hits},
    }  # fmt: skip


def dense_quality(folder: Path, scenes: int, size: int, merge: float, split: str = "dev") -> dict[str, float]:
    """Patch tokens at an input of `size` pixels: cell-wise zero-shot accuracy, and the oracle of clusters.

    The oracle clusters the cells without a seen label, paints each unlabelled pixel with its cell's cluster and takes,
    for every unseen class in the scene, the cluster of best IoU; the mean over scenes and classes, in per cent.
    """
    model, text, prepare = load(folder)
    hits: list[float] = []
    overlaps: list[float] = []
    purity: list[float] = []
    kinds: list[int] = []
    for index in range(scenes):
        scene = render(split, index)
        labels = torch.from_numpy(scene.labels).long()
        image = prepare(torch.from_numpy(scene.image)[None])
        tokens = dense_tokens(model, F.interpolate(image, (size, size), mode="bicubic", align_corners=False))[0]
        h = len(tokens)
        share = F.avg_pool2d(F.one_hot(labels, len(CLASSES)).permute(2, 0, 1)[None].float(), SIZE // h)[0]
        hits.append(float(((tokens @ text.T).argmax(-1) == share.argmax(0)).float().mean()))
        unlabelled = torch.isin(labels, torch.tensor(UNSEEN_IDS))
        free = share[UNSEEN_IDS].sum(0) > 0.5
        if not free.any():
            continue
        grid = cluster(tokens, free, merge)
        nearest = _fill(grid)
        painted = torch.where(unlabelled, nearest.repeat_interleave(SIZE // h, 0).repeat_interleave(SIZE // h, 1), -1)
        found = painted[unlabelled].unique()
        kinds.append(len(found))
        for c in UNSEEN_IDS:
            truth = labels == c
            if truth.sum() >= MIN_AREA * SIZE * SIZE:
                ious = [float((truth & (painted == u)).sum() / (truth | (painted == u)).sum()) for u in found]
                overlaps.append(max(ious))
        purity += [
            float(torch.bincount(labels[painted == u], minlength=len(CLASSES)).max() / (painted == u).sum())
            for u in found
        ]  # fmt: skip
    return {
        "cell_top1": round(100 * float(np.mean(hits)), 2),
        "oracle_iou_unseen": round(100 * float(np.mean(overlaps)), 2),
        "cluster_purity": round(100 * float(np.mean(purity)), 2),
        "clusters": round(float(np.mean(kinds)), 2),
    }


def _fill(grid: Tensor) -> Tensor:
    """Give each cell without a cluster that of the nearest cell with one. int64 [h,w]."""
    places = (grid >= 0).nonzero().float()
    cells = torch.stack(torch.meshgrid(*map(torch.arange, grid.shape), indexing="ij"), -1).float()
    nearest = torch.cdist(rearrange(cells, "h w d -> (h w) d"), places).argmin(1)
    return grid[grid >= 0][nearest].reshape(grid.shape)


def report(folder: Path, scenes: int = 500) -> dict[str, Any]:
    """Everything above, as the teacher's card stores it."""
    measured = region_accuracy(folder, scenes)
    for size in (SIZE, 2 * SIZE):
        for merge in (0.7, 0.8, 0.9):
            measured[f"dense_{size}_merge_{merge}"] = dense_quality(folder, min(scenes, 150), size, merge)
    return measured


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(report(Path(sys.argv[1]), int(sys.argv[2])), indent=1))
