"""What steps share: photos, caches, a trained run; each made once, by whichever step needs it first."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from c2s.gpu.world import World

VIT = "ViT-B-16"
SCENES = 400
"""Of the Shapes cache; a rehearsal takes fewer."""


def inputs(world: World) -> dict[str, Any]:
    """Make what several steps share, so that it is not in their times."""
    began = time.monotonic()
    seconds = {}
    for name, make in (("Shapes cache", shapes_cache), ("photos", photos), ("cache", photo_cache)):
        make(world)
        seconds[f"{name}, s"] = round(time.monotonic() - began, 1)
        began = time.monotonic()
    return seconds


def photos(world: World) -> Path:
    """A folder in COCO-Stuff's official layout, to be given as --root: drawn JPEGs of 640 x 480, each with
    twenty blocks of label; smaller in a rehearsal."""
    width, height = world.size((96, 72), (640, 480))
    count = world.size(12, 384)
    with world.once("photos") as root:
        if not (root / "ready").is_file():
            images = root / "images/train2017"
            for folder in (images, root / "stuffthingmaps_trainval2017/train2017"):
                folder.mkdir(parents=True, exist_ok=True)
            jobs = [(root, i, width, height) for i in range(count)]
            with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
                list(pool.map(_photo, jobs, chunksize=16))
            (root / "ready").touch()
    return root


def _photo(job: tuple[Path, int, int, int]) -> None:
    """Smooth colour with grain, so that a JPEG is as large as a photo's (about 80 KB)."""
    from PIL import Image

    from c2s.datasets.coco_stuff import RAW_VALUES

    root, number, width, height = job
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(root / f"images/train2017/{number:012d}.jpg", quality=88)
    few = rng.choice(np.array([*RAW_VALUES, 255, 255, 255, 255], np.uint8), 8)
    blocks = Image.fromarray(rng.choice(few, (4, 5)))
    labels = blocks.resize((width, height), Image.Resampling.NEAREST)
    labels.save(root / f"stuffthingmaps_trainval2017/train2017/{number:012d}.png")


def teacher_options(world: World) -> list[str]:
    """Of builds from photos: ViT-B/16 with random weights; the small bundled teacher in a rehearsal."""
    from c2s.shapes.defaults import TEACHER

    if not world.small:
        return ["--teacher", VIT, "--pretrained", "random"]
    rows = ["--text-embeddings", str(text_rows(world)), "--unchecked-text"]
    return ["--teacher", TEACHER, "--set", "view_size=64", *rows]


def text_rows(world: World) -> Path:
    """Rows for COCO-Stuff's classes in a rehearsal, drawn at random: the bundled teacher knows none of their names, so
    that it cannot tell them apart."""
    from c2s.datasets.coco_stuff import DESCRIPTOR
    from c2s.shapes.defaults import TEACHER
    from c2s_pipeline.teachers.base import TeacherSpec
    from c2s_pipeline.teachers.registry import load_teacher

    with world.once("text.npy") as file:
        if not file.is_file():
            size = len(DESCRIPTOR.classes), load_teacher(TeacherSpec(TEACHER)).dim
            np.save(file, np.random.default_rng(0).standard_normal(size).astype(np.float32))
    return file


def shapes_cache(world: World) -> Path:
    """A cache of Shapes scenes, built on this device."""
    with world.once("shapes.zarr") as path:
        if not (path / "zarr.json").is_file() or not _complete(path):
            limit = f"limit={world.size(60, SCENES)}"
            world.run("cache", "build", "--dataset", "shapes", "--out", path, "--set", limit)
    return path


def photo_cache(world: World) -> Path:
    """A cache of the photos by ViT-B/16, built in bfloat16 on a GPU."""
    root = photos(world)
    with world.once("photos.zarr") as path:
        if not (path / "zarr.json").is_file() or not _complete(path):
            where = ["--dataset", "coco-stuff", "--root", root, "--out", path]
            precision = ["--set", "precision=bfloat16"] if world.on_gpu else []
            world.run("cache", "build", *where, *teacher_options(world), *precision)
    return path


def _complete(path: Path) -> bool:
    from c2s_cache import C2SError, open_cache

    try:
        open_cache(path)
    except C2SError:
        return False
    return True


def train_options(world: World, **settings: Any) -> list[str]:
    """Options of a short training from the Shapes cache on this device."""
    values = {
        "accelerator": "gpu" if world.on_gpu else "cpu",
        "iterations": world.size(6, 150),
        "batch_size": world.size(8, 32),
        "warmup": 2,
        "log_every": 1,
        "checkpoint_every": 1000,
        "loggers": "[]",
        "workers": 0,
        **settings,
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def trained_run(world: World) -> Path:
    """A run on the Shapes cache, trained on this device in float32."""
    cache = shapes_cache(world)
    with world.once("runs-trained") as folder:
        run = folder / "whole"
        if not _is_complete(run):
            where = ["--cache", cache, "--runs", folder, "--name", "whole", "--overwrite"]
            world.run("train", *where, *train_options(world))
    return run


def _is_complete(run: Path) -> bool:
    from c2s.runs.checkpoint import read_state
    from c2s_cache import C2SError

    try:
        return read_state(run).complete
    except C2SError:
        return False


def losses(run: Path, name: str = "loss") -> list[float]:
    """A loss of every logged iteration of a run."""
    from c2s.training.logs import read_metrics

    return [float(record[name]) for record in read_metrics(run) if name in record]


def difference(a: list[float], b: list[float]) -> float:
    """Largest relative difference of corresponding values; infinite if there are not as many."""
    if len(a) != len(b) or not a:
        return float("inf")
    return max(abs(x - y) / max(abs(x), abs(y), 1e-12) for x, y in zip(a, b, strict=True))
