"""The same on both devices: the teacher in every precision, K-means, one training step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from c2s.gpu.inputs import shapes_cache
from c2s.gpu.world import Failed, World
from c2s.shapes.defaults import BUILD, TEACHER

LEAST = {"float32": 0.99999, "TF32": 0.9995, "float16": 0.9995, "bfloat16": 0.99}
"""Lowest mean cosine with the CPU's float32 that passes, of every kind of token."""
RESNET = "RN50"
FEW = 0.02
"""Largest share of mask cells that may differ in float32: those on a boundary between two clusters."""


@dataclass(frozen=True)
class Answers:
    """What a teacher says of scenes: CLS [n, D], dense tokens [n, h, w, C], region tokens [R, D] by the
    masks of reference, and the mask [n, h, w] by its own tokens."""

    cls: NDArray[np.float32]
    dense: NDArray[np.float32]
    regions: NDArray[np.float32]
    grid: NDArray[np.uint8]


def agreement(world: World) -> dict[str, Any]:
    """The bundled teacher, and a ViT-B/16 and a ResNet of random weights, on the GPU against the CPU in float32."""
    from c2s.gpu.inputs import VIT

    rows = []
    teachers: list[tuple[str, str | None, int, dict[str, Any]]] = [
        (TEACHER, None, world.size(12, 100), {**BUILD["masks"]})
    ]
    teachers += world.size([], [(VIT, "random", 16, {}), (RESNET, "random", 8, {})])
    for name, weights, count, masks in teachers:
        rows += _of_teacher(world, name, weights, count, masks)
    low = [r for r in rows if r["teacher"] not in (VIT, RESNET) and not _good(r)]
    if low:
        named = ", ".join(r["precision"] for r in low)
        raise Failed(f"The teacher on {world.device} is not the CPU's in {named}.", {"rows": rows})
    return {"rows": rows}


def _good(row: dict[str, Any]) -> bool:
    least = LEAST[row["precision"]]
    cells = row["mask cells that differ"] <= FEW or row["precision"] != "float32"
    return bool(cells) and min(row["CLS"], row["dense"], row["regions"]) >= least


def _of_teacher(
    world: World, name: str, weights: str | None, count: int, masks: dict[str, Any]
) -> list[dict[str, Any]]:
    from c2s.bench.inputs import scenes
    from c2s_pipeline.clustering.latent import ClusterSettings
    from c2s_pipeline.teachers.base import TeacherSpec
    from c2s_pipeline.teachers.registry import load_teacher

    def spec(precision: Any) -> TeacherSpec:
        return TeacherSpec(name, weights, precision=precision)

    config = ClusterSettings.model_validate(masks)
    reference = load_teacher(spec("float32"), "cpu")
    images, labels = scenes(count, reference.image_size)
    want = _answers(reference, images, labels, config, None)
    asked = [("float32", "float32", False), ("TF32", "float32", True)]
    asked += [("float16", "float16", False), ("bfloat16", "bfloat16", False)]
    if not world.on_gpu:  # torch has neither TF32 nor all of float16 there
        asked = [row for row in asked if row[0] in ("float32", "bfloat16")]
    rows = []
    for shown, precision, tf32 in asked:
        part = slice(None) if world.on_gpu or precision == "float32" else slice(4)
        with _tf32(tf32):
            teacher = load_teacher(spec(precision), world.device)
            got = _answers(teacher, images[part], labels[part], config, want.grid[part])
        rows.append(
            {
                "teacher": name.rpartition("/")[2],
                "precision": shown,
                "scenes": len(images[part]),
                "CLS": cosine(got.cls, want.cls[part]),
                "dense": cosine(got.dense, want.dense[part]),
                "regions": cosine(got.regions, want.regions[: len(got.regions)]),
                "CLS, worst": cosine(got.cls, want.cls[part], worst=True),
                "dense, worst": cosine(got.dense, want.dense[part], worst=True),
                "regions, worst": cosine(got.regions, want.regions[: len(got.regions)], worst=True),
                "mask cells that differ": float((got.grid != want.grid[part]).mean()),
            }
        )
    return rows


def _answers(
    teacher: Any,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    config: Any,
    grids: NDArray[np.uint8] | None,
) -> Answers:
    """Answers to scenes; regions are cut by `grids`, or by the teacher's own masks."""
    from c2s_cache.pseudo_mask import pseudo_mask
    from c2s_pipeline.clustering.kmeans import create_backend
    from c2s_pipeline.clustering.latent import latent_grids
    from c2s_pipeline.clustering.seeds import annotated_cells
    from c2s_pipeline.stages.regions import RegionSettings, masked_regions

    inside = np.ones(labels.shape[1:], bool)
    cls, dense = (values.cpu().numpy() for values in teacher.dense(images))
    closed = np.stack([annotated_cells(known, inside, teacher.grid) for known in labels])
    own = latent_grids(dense, closed, config, create_backend("torch", teacher.device))
    cut = own if grids is None else grids
    classes = int(labels[labels < 255].max()) + 1
    masked = [
        masked_regions(image, pseudo_mask(known, grid, classes, inside), RegionSettings())[1]
        for image, known, grid in zip(images, labels, cut, strict=True)
    ]
    regions = teacher.embed_images(np.concatenate(masked), 128).cpu().numpy()
    return Answers(cls, dense, regions, own)


def cosine(a: NDArray[Any], b: NDArray[Any], worst: bool = False) -> float:
    """Mean (or smallest) cosine of corresponding vectors [..., D]."""
    x, y = (v.reshape(-1, v.shape[-1]).astype(np.float64) for v in (a, b))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosines = (x * y).sum(1) / np.maximum(norms, 1e-12)
    return float(cosines.min() if worst else cosines.mean())


@contextlib.contextmanager
def _tf32(on: bool) -> Iterator[None]:
    """Have matrix products of float32 compute in TensorFloat-32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def clusters(world: World) -> dict[str, Any]:
    """K-means of the torch backend on both devices, on tokens of scenes and on ragged random ones."""
    from c2s.bench.inputs import tokens_and_seeds
    from c2s_pipeline.clustering.latent import ClusterSettings
    from c2s_pipeline.clustering.torch_kmeans import TorchKMeans
    from c2s_pipeline.teachers.base import TeacherSpec
    from c2s_pipeline.teachers.registry import load_teacher

    rng = np.random.default_rng(0)
    ragged = [
        rng.standard_normal((n, 64)).astype(np.float32) for n in (1, 5, 20, 31, 32, 33, 196, 1024)
    ]
    sets = {"ragged": (ragged, [np.concatenate([t[: 1 + len(t) // 3], t[:1] + 9]) for t in ragged])}
    teacher = load_teacher(TeacherSpec(TEACHER, None), "cpu")
    sets["scenes"] = tokens_and_seeds(teacher, ClusterSettings(), world.size(24, 400), 25)
    rows: list[dict[str, Any]] = []
    for name, (tokens, seeds) in sets.items():
        ours = TorchKMeans(world.device).fit(tokens, seeds, 10)
        again = TorchKMeans(world.device).fit(tokens, seeds, 10)
        want = TorchKMeans("cpu").fit(tokens, seeds, 10)
        other = sum(int((a != b).sum()) for a, b in zip(ours, want, strict=True))
        repeats = all(np.array_equal(a, b) for a, b in zip(ours, again, strict=True))
        share = other / sum(map(len, tokens))
        row = {"tokens": name, "sets": len(tokens), "labels that differ": share, "repeats": repeats}
        rows.append(row)
    wrong = [row["tokens"] for row in rows if not row["repeats"] or row["labels that differ"] > FEW]
    if wrong:
        raise Failed(f"K-means on {world.device} is not the CPU's: {wrong}.", {"rows": rows})
    return {"rows": rows}


def one_step(world: World) -> dict[str, Any]:
    """Three iterations on both devices from the same weights, without dropout: their losses."""
    cache = shapes_cache(world)
    rows: list[dict[str, Any]] = []
    for student in ("shapes-net", "segformer-b0"):
        want = _losses(cache, student, "cpu", False)
        for tf32 in world.size([False], [False, True]):
            got = _losses(cache, student, world.device, tf32)
            pairs = zip(want, got, strict=True)
            apart = [max(abs(a[k] - b[k]) / max(abs(a[k]), 1e-6) for k in a) for a, b in pairs]
            names = ("first iteration", "second", "third")
            row = {"student": student, "convolutions": "TF32" if tf32 else "float32"}
            rows.append({**row, **dict(zip(names, apart, strict=True))})
    high = [r for r in rows if r["convolutions"] == "float32" and not r["first iteration"] < 1e-3]
    if high or not all(np.isfinite(r["third"]) for r in rows):
        raise Failed(f"Losses on {world.device} are not the CPU's.", {"rows": rows})
    return {"rows": rows, "figure": "largest relative difference of a loss from the CPU's"}


def _losses(cache: Any, student: str, device: str, tf32: bool) -> Sequence[dict[str, float]]:
    from itertools import islice

    from c2s.runs.config import load_config
    from c2s.training.datamodule import C2SDataModule
    from c2s.training.run import build_module
    from c2s_cache import open_cache

    opened = open_cache(cache)
    options: dict[str, Any] = {"cache": cache, "student": student, "batch_size": 8}
    options |= {"workers": 0, "iterations": 3, "jitter": False, "loggers": ()}
    config = load_config(**options)
    config = config.resolved(opened.manifest)
    module = build_module(config, opened)
    for part in module.modules():  # random draws differ between devices
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if hasattr(part, "drop_prob"):
            vars(part)["drop_prob"] = 0.0
    module.to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    flags: AbstractContextManager[Any] = contextlib.nullcontext()
    if device == "cuda":
        flags = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32)
    found = []
    with flags:
        data = C2SDataModule(config, opened)
        for batch in islice(data.stream(0, 3), 3):
            optimizer.zero_grad()
            there = data.transfer_batch_to_device(batch, torch.device(device), 0)
            values = module.training_step(there, 0)
            torch.autograd.backward(values["loss"])
            optimizer.step()
            found.append({key: float(value) for key, value in values.items()})
    return found
