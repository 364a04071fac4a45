"""Inference on the GPU against the CPU: scores, pictures, the folded model, the exported program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from c2s.gpu.inputs import trained_run
from c2s.gpu.world import Failed, World

FEW = 0.02
"""Largest share of pixels that may change their class with the device: a GPU convolves in TF32, and a student
of so few iterations is undecided between classes."""


def scores(world: World) -> dict[str, Any]:
    """`eval` and `predict` of one run on both devices."""
    from c2s.evaluation.confusion import METRICS

    run = trained_run(world)
    rows = []
    for device in dict.fromkeys(("cpu", world.device)):
        for folded in ([], ["--folded"]):
            limit = ["--limit", world.size(8, 100), "--device", device, "--json"]
            text = world.here("eval", "--run", run, "--dataset", "shapes", *limit, *folded)
            found = json.loads(text.strip().splitlines()[-1])
            row = {"device": device, "folded": bool(folded)}
            rows.append({**row, **{k: found[k] for k in METRICS}})
    pictures = _pictures(world, world.size(3, 40))
    maps = {d: _predicted(world, run, pictures, d) for d in dict.fromkeys(("cpu", world.device))}
    changed = float((maps["cpu"] != maps[world.device]).mean())
    apart = max(
        abs(a["pAcc"] - b["pAcc"]) for a in rows for b in rows if a["folded"] == b["folded"]
    )
    figures = {"rows": rows, "pAcc apart": apart, "pixels of another class": changed}
    if changed > FEW or apart > 50 * FEW:
        raise Failed(f"A run predicts otherwise on {world.device}.", figures)
    return figures


def _pictures(world: World, count: int) -> list[Path]:
    from PIL import Image

    from c2s.shapes.scenes import render

    folder = world.place("pictures")
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        scene = Image.fromarray(render("val", i).image)
        scene.resize((96, 72), Image.Resampling.BICUBIC).save(path)  # several windows
    return paths


def _predicted(world: World, run: Path, pictures: list[Path], device: str) -> Any:
    from PIL import Image

    out = world.place(f"predicted-{device}")
    world.here("predict", *pictures, "--run", run, "--out", out, "--device", device)
    return np.stack([np.asarray(Image.open(out / p.name)) for p in pictures])


def export(world: World) -> dict[str, Any]:
    """`fold --export`: model and program on the GPU, against the model on the CPU."""
    import torch

    from c2s.deploy import SegmentationModel

    run, out = trained_run(world), world.place("folded")
    world.here("fold", "--run", run, "--out", out, "--export")
    model = SegmentationModel.from_pretrained(str(out)).eval()
    images = torch.randn(world.size(2, 16), 3, 96, 128, generator=torch.Generator().manual_seed(0))
    moved = _program(out / "model.pt2", world.device)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        want = model(images)
        there = images.to(world.device)
        got = {"model": model.to(world.device)(there).cpu(), "program": moved(there).cpu()}
    largest = float(want.abs().max())
    rows: list[dict[str, Any]] = [
        {
            "what": name,
            "largest difference": float((value - want).abs().max()) / largest,
            "positions of another class": float((value.argmax(1) != want.argmax(1)).float().mean()),
        }
        for name, value in got.items()
    ]
    if any(not row["largest difference"] < 1e-3 for row in rows):
        raise Failed(f"On {world.device} logits are others.", {"rows": rows})
    return {"rows": rows}


def _program(file: Path, device: str) -> Any:
    import torch
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(torch.export.load(file), device).module()
