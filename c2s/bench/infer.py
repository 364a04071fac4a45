"""Inference of a folded student against the stock model of its library with as many classes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from c2s.bench.measure import Side, alternate, device_name, result
from c2s.deploy.fold import fold_classifier, fold_run
from c2s.evaluation.classifier import Classifier
from c2s.evaluation.evaluate import compute_device
from c2s.runs.run import open_run
from c2s.students import create
from c2s.students.adapters.adapted import Adapted
from c2s.students.base import FeatureStudent, parameter_count
from c2s.students.segformer import HEAD_CHANNELS, SIZES

CLIP_DIM = 512
ROUND_SECONDS = 0.2
"""A round is as many passes of the stock model as fit into that time, at least one."""
SHAPES = {"dim": 128, "classes": 16, "size": 64, "batch": 16}
FIELD = {"dim": CLIP_DIM, "classes": 171, "size": 512, "batch": 1}
"""Defaults of the demo's student, and of all others (COCO-Stuff, ViT-B/16)."""


class Logits(nn.Module):
    """A transformers segmentation model that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K, h, w] of images [B, 3, H, W]."""
        logits: Tensor = self.model(images).logits
        return logits


def stock_model(
    name: str, classes: int, architecture: Mapping[str, Any] | None = None
) -> tuple[nn.Module, str]:
    """A student's architecture as its library builds it, with a head of so many classes.

    SegFormer is that of transformers, whose head has a bias per level where mmsegmentation's, ours, has
    a norm (1,024 parameters less).

    Args:
        name: of the student.
        classes: K.
        architecture: what the student says of itself beyond its name.

    Returns:
        The model, images [B, 3, H, W] to logits, of random weights; and where it is from.
    """
    family, _, size = name.partition("-")
    if family == "segformer":
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        widths, depths = SIZES[size]
        config = SegformerConfig(
            hidden_sizes=list(widths),
            depths=list(depths),
            decoder_hidden_size=HEAD_CHANNELS,
            num_labels=classes,
        )
        return Logits(SegformerForSemanticSegmentation(config)), "transformers"
    student = create(name, classes, "random", architecture)
    if isinstance(student, Adapted):
        return student.model, name.partition(":")[0]
    return student, "c2s"


def bench_infer(
    run: Path | None = None,
    student: str | None = None,
    classes: int | None = None,
    size: int | None = None,
    batch: int | None = None,
    rounds: int = 15,
    advance: Callable[[int], None] | None = None,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Images per second of the folded student, the stock model, and the student before folding.

    `ratio` compares the first two, `unfolded_ratio` the last with the stock model: cosines of D-wide
    features with K embeddings. Float32, in inference mode, to logits at the model's own resolution.
    `parameters` and `gflops` (multiply-accumulates of one image in units of 1e9) are of every side; on a
    GPU `peak_memory_mib` is what each holds at most.

    Args:
        run: trained run to fold; default a student of random weights.
        student: its name; default the demo's.
        classes: K; default 16 for the demo's student and 171 for others.
        size: side of the square images in pixels; default that of the run, or 64 and 512.
        batch: images per pass; default 16 for the demo's student and 1 for others.
        rounds: timed rounds of each side.
        advance: called after every round.
        allow_code: as for `open_run`.

    Raises:
        RunError: no run there.
        ConfigError: unknown student.
    """
    architecture = None
    if run is not None:
        opened = open_run(run, allow_code)
        architecture = opened.info.architecture
        student, size = opened.config.student, size or opened.config.image_size
        embeddings = torch.from_numpy(opened.embeddings)
        folded: nn.Module = fold_run(opened)
        unfolded = Classifier(opened.student, embeddings)
    student = student or "shapes-net"
    defaults = SHAPES if student == "shapes-net" else FIELD
    if run is None:
        width = (classes or defaults["classes"], defaults["dim"])
        embeddings = nn.functional.normalize(torch.randn(width), dim=1)
        folded, unfolded = _random_pair(student, embeddings)
    size, batch = size or defaults["size"], batch or defaults["batch"]
    stock, library = stock_model(student, len(embeddings), architecture)
    models = {"folded": folded, "stock": stock, "unfolded": unfolded}
    device = compute_device("auto")
    images = torch.randn(batch, 3, size, size, device=device)
    for model in models.values():
        model.eval().to(device)
    passes = _passes(models["stock"], images)
    sides = {name: _side(model, images, passes) for name, model in models.items()}
    rates = alternate(sides, rounds, advance=advance)
    medians = {name: side.median for name, side in rates.items()}
    what = {
        "student": student,
        "run": None if run is None else str(run),
        "classes": len(embeddings),
        "dim": embeddings.shape[1],
        "size": f"{size} px",
        "batch": batch,
        "passes per round": passes,
        "stock model of": library,
        "device": device_name(),
        "threads": torch.get_num_threads(),
    }
    more: dict[str, Any] = {
        "unfolded_ratio": medians["unfolded"] / medians["stock"],
        "parameters": {k: parameter_count(m.parameters()) for k, m in models.items()},
        "gflops": {k: _gflops(m, size) for k, m in models.items()},
    }
    if device.type == "cuda":
        more["peak_memory_mib"] = {k: _peak(side) for k, side in sides.items()}
    return result("infer", rates, "folded", "stock", "images/s", what, **more)


def _random_pair(name: str, embeddings: Tensor) -> tuple[nn.Module, Classifier]:
    """A student of random weights, folded and not."""
    classes, dim = embeddings.shape
    wide = cast(FeatureStudent, create(name, dim, "random"))
    folded = create(name, classes, "random", wide.architecture)
    folded.load_state_dict(fold_classifier(wide.state_dict(), wide.classifier, embeddings))
    return folded, Classifier(wide, embeddings)


@torch.inference_mode()
def _passes(model: nn.Module, images: Tensor) -> int:
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        model(images)
        _wait(images)
        seconds.append(time.perf_counter() - started)
    return max(1, round(ROUND_SECONDS / min(seconds)))


def _side(model: nn.Module, images: Tensor, passes: int) -> Side:
    @torch.inference_mode()
    def run() -> int:
        for _ in range(passes):
            model(images)
        _wait(images)
        return passes * len(images)

    return run


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def _peak(side: Side) -> float:
    torch.cuda.reset_peak_memory_stats()
    side()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


@torch.inference_mode()
def _gflops(model: nn.Module, size: int) -> float:
    """Multiply-accumulates of one image in units of 1e9, counted on a copy without memory."""
    ghost = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        ghost(torch.zeros(1, 3, size, size, device="meta"))
    flops: int = counter.get_total_flops()
    return round(flops / 2e9, 4)
