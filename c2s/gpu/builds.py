"""Builds on the GPU: what the CPU says of them, two at once, and no memory left."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from c2s.gpu.agreement import cosine
from c2s.gpu.inputs import photos, teacher_options
from c2s.gpu.world import NO_GPU, Command, Failed, Skipped, World

NOTHING_STARVED = (
    "Nothing runs out of a GPU's memory here; the same commands ran with all they need."
)


def build(world: World) -> dict[str, Any]:
    """A Shapes cache built on each device and verified on the other."""
    limit = ["--set", f"limit={world.size(30, 400)}"]
    here, there = world.place("build-gpu.zarr"), world.place("build-cpu.zarr")
    asked = ("cache", "build", "--dataset", "shapes", *limit, "--out")
    started = world.start(*asked, here), world.start(*asked, there, env=NO_GPU)
    for process in started:
        if (done := world.finish(process)).code:
            raise Failed(f"A build ended with code {done.code}: {done.last}")
    check = ("cache", "verify", "--json")
    looking = world.start(*check, here, env=NO_GPU), world.start(*check, there)
    on = ((world.device, "cpu"), ("cpu", world.device))
    rows = [
        {"built on": built, "verified on": seen, **_verdict(world.finish(process))}
        for (built, seen), process in zip(on, looking, strict=True)
    ]
    figures = {"rows": rows, **_apart(here, there)}
    if not all(row["sound"] for row in rows):
        raise Failed("A cache of one device is not what the other one says.", figures)
    return figures


def _verdict(done: Command) -> dict[str, Any]:
    row: dict[str, Any] = {"sound": done.code == 0}
    with contextlib.suppress(ValueError):
        facts = json.loads(done.out)
        row |= {k: v for k, v in (facts["live"] or {}).items() if isinstance(v, float)}
    return row


def _apart(first: Path, second: Path) -> dict[str, float]:
    """How far two caches of one request are apart."""
    from c2s_cache import open_cache

    a, b = open_cache(first), open_cache(second)
    cls = [np.asarray(c.column("global_cls/cls"), np.float32) for c in (a, b)]
    grids = [np.asarray(c.column("masks/grid")) for c in (a, b)]
    return {
        "CLS, mean cosine": cosine(cls[0], cls[1]),
        "mask cells that differ": float((grids[0] != grids[1]).mean()),
        "CLS equal to the bit": float((cls[0] == cls[1]).all(-1).mean()),
    }


def two_builds(world: World) -> dict[str, Any]:
    """Two builds at once on one GPU: both end, with the same bytes."""
    limit = ["--set", f"limit={world.size(24, 300)}", "--block-rows", world.size(8, 50)]
    outs = [world.place(f"two-{i}.zarr") for i in range(2)]
    began = time.monotonic()
    started = [
        world.start("cache", "build", "--dataset", "shapes", "--out", out, *limit) for out in outs
    ]
    done = [world.finish(process) for process in started]
    if any(one.code for one in done):
        raise Failed(f"Of two builds at once one failed: {[one.last for one in done if one.code]}")
    files = [_files(out) for out in outs]
    other = sorted(name for name in files[0].keys() | files[1].keys() if _differs(name, files))
    figures = {
        "files": len(files[0]),
        "files that differ": other[:5],
        "s": round(time.monotonic() - began, 1),
    }
    if other:
        raise Failed(f"Two builds of one request differ in {len(other)} files.", figures)
    return figures


def _files(cache: Path) -> dict[str, bytes]:
    return {
        p.relative_to(cache).as_posix(): p.read_bytes()
        for p in cache.rglob("*")
        if p.is_file() and p.name != "provenance.jsonl"
    }


def _differs(name: str, files: list[dict[str, bytes]]) -> bool:
    return files[0].get(name) != files[1].get(name)


@contextlib.contextmanager
def starved(world: World, leave_gib: float) -> Iterator[None]:
    """Hold the GPU's memory but for so much, as another program would; nothing without a GPU."""
    import torch

    held = []
    if world.on_gpu:
        free, _ = torch.cuda.mem_get_info()
        while (rest := free - int(leave_gib * 2**30)) > 2**26:
            held.append(torch.empty(min(rest, 2**33), dtype=torch.uint8, device="cuda"))
            free, _ = torch.cuda.mem_get_info()
        print(f"{free / 2**30:.2f} GiB are left", flush=True)
    try:
        yield
    finally:
        held.clear()
        if world.on_gpu:
            torch.cuda.empty_cache()


def told(done: Command) -> dict[str, Any]:
    """How a command that ran out of memory put it: one error, its code, whether it was a traceback."""
    lines = [line for line in done.err.splitlines() if line.startswith("error:")]
    return {
        "exit code": done.code,
        "said": (lines or [done.last])[-1][:300],
        "in one sentence": done.code == 1 and len(lines) == 1 and "Traceback" not in done.err,
        "of memory": "memory" in "".join(lines),
    }


def memory_build(world: World) -> dict[str, Any]:
    """A build that runs out of GPU memory says so in one sentence, and the same command ends it later."""
    root, out = photos(world), world.place("memory.zarr")
    rows = world.size(4, 256)
    asked = ["--dataset", "coco-stuff", "--root", root, "--out", out, *teacher_options(world)]
    asked += ["--batch-size", rows, "--block-rows", rows, "--set", f"limit={world.size(8, 256)}"]
    with starved(world, 3.5):
        first = world.command("cache", "build", *asked)
    again = world.run("cache", "build", *asked)
    sound = world.command("cache", "verify", out, "--quick")
    figures: dict[str, Any] = {"starved": told(first)} if world.on_gpu else {}
    figures |= {"s afterwards": again.seconds, "sound": sound.code == 0}
    if sound.code:
        raise Failed("The cache that a starved build began is not sound in the end.", figures)
    if not world.on_gpu:
        raise Skipped(NOTHING_STARVED, figures)
    if first.code == 0:
        raise Skipped("The build needed less than the 3.5 GiB that were left to it.", figures)
    said = told(first)
    if not (said["in one sentence"] and said["of memory"]):
        raise Failed(f"A starved build did not say so in one sentence: {first.last}", figures)
    return figures
