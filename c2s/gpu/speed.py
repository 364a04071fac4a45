"""Figures of speed: each a ratio of two rates of one run, after warm-up, everything waited for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from c2s.gpu.inputs import VIT, photo_cache, photos, text_rows
from c2s.gpu.machine import state, watched
from c2s.gpu.world import Skipped, World

SECONDS = 0.5
"""Of repeated products, after as many products of warm-up as take a tenth of that."""


def rate(call: Callable[[], object], device: str, seconds: float = SECONDS) -> float:
    """Calls per second, warmed up and waited for."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def repeat(times: int) -> float:
        wait()
        began = time.perf_counter()
        for _ in range(times):
            call()
        wait()
        return time.perf_counter() - began

    call()
    once = max(repeat(2) / 2, 1e-6)
    repeat(max(int(0.1 * seconds / once), 1))
    times = max(int(seconds / once), 2)
    return times / repeat(times)


def product_rate(world: World, precision: str) -> float:
    """TFLOP/s of a large product of random square matrices ("TF32": float32 in that mode)."""
    dtype = torch.float32 if precision == "TF32" else getattr(torch, precision)
    size = world.size(256 if precision == "float32" else 64, 8192)
    a, b = (torch.randn(size, size, device=world.device).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    try:
        return 2 * size**3 * rate(lambda: a @ b, world.device, world.size(0.1, SECONDS)) / 1e12
    finally:
        torch.set_float32_matmul_precision(before)


def matmul(world: World) -> dict[str, Any]:
    """What the chip can do: matrix products by precision, and copies in its memory."""
    precisions = ("float32", *world.size((), ("TF32", "float16")), "bfloat16")
    with watched() as seen:
        rows = [{"product": p, "TFLOP/s": product_rate(world, p)} for p in precisions]
        big = torch.empty(world.size(2**22, 2**32), dtype=torch.uint8, device=world.device)
        other = torch.empty_like(big)
        copies = rate(lambda: other.copy_(big), world.device, world.size(0.1, SECONDS))
    gbs = 2 * big.numel() * copies / 1e9
    return {"rows": rows, "copy, GB/s read and written": gbs, "watched": seen, **state()}


def vit_flops(teacher: Any, size: int) -> float:
    """Floating-point operations of one image of that side through a ViT, two per multiply-accumulate."""
    visual = teacher.tower.visual
    width, blocks = visual.conv1.out_channels, visual.transformer.resblocks
    hidden = blocks[0].mlp.c_fc.out_features
    patches = (size // teacher.patch_size) ** 2
    tokens = patches + 1
    layer = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    embedding = patches * 3 * teacher.patch_size**2 * width
    return float(2 * (len(blocks) * layer + embedding))


def build_speed(world: World) -> dict[str, Any]:
    """Builds by ViT-B/16 at 224 against the bare teacher, and that against the chip's products."""
    rows = [_build(world, precision, None) for precision in world.size(("float32",), FULL)]
    return {"rows": rows, **state()}


FULL = ("float32", "bfloat16")


def build_512(world: World) -> dict[str, Any]:
    """The same with --dense-size 512 in bfloat16."""
    precision = world.size("float32", "bfloat16")
    return {"rows": [_build(world, precision, world.size(96, 512))], **state()}


def _build(world: World, precision: str, dense_size: int | None) -> dict[str, Any]:
    from c2s.bench.build import bench_build
    from c2s.shapes.defaults import TEACHER
    from c2s_pipeline.teachers.base import TeacherSpec
    from c2s_pipeline.teachers.registry import load_teacher

    root = photos(world)
    settings: dict[str, Any] = {"precision": precision, "dense_size": dense_size}
    settings |= rehearsed(world)
    name, weights = world.size((TEACHER, None), (VIT, "random"))
    products = product_rate(world, precision)
    count, rounds = world.size((8, 1), (384, 2))
    with watched() as seen:
        facts = bench_build(
            name,
            weights,
            count,
            rounds,
            "coco-stuff",
            root,
            trial=world.size(0.02, 0.6),
            **settings,
        )
    what = facts["what"]
    teacher = load_teacher(TeacherSpec(name, weights, dense_size), "cpu")
    native, dense = (vit_flops(teacher, s) for s in (teacher.image_size, teacher.dense_size))
    flops = what["dense passes per image"] * dense + what["other passes per image"] * native
    reference = flops * facts["reference"] / 1e12
    return {
        "precision": precision,
        "dense size": teacher.dense_size,
        "passes beside an image": what["other passes per image"],
        "build, images/s": facts["ours"],
        "teacher, images/s": facts["reference"],
        "ratio": facts["ratio"],
        "teacher, TFLOP/s": reference,
        "products, TFLOP/s": products,
        "teacher / products": reference / products,
        "GPU busy, %": seen.get("utilization.gpu"),
        "MHz": seen.get("clocks.sm"),
        "W": seen.get("power.draw"),
    }


def rehearsed(world: World) -> dict[str, Any]:
    """Settings of builds from photos in a rehearsal; none otherwise."""
    if not world.small:
        return {}
    text = {"embeddings": text_rows(world), "check": False}
    return {"batch_size": 4, "block_rows": 8, "view_size": 64, "text": text}


def build_time(world: World) -> dict[str, Any]:
    """Where the time of a build goes: seconds of its threads per image, by what they do."""
    import distributed

    from c2s.bench.inputs import build_request
    from c2s.datasets import load_dataset
    from c2s.shapes.defaults import TEACHER
    from c2s_cache.writer import BlockWriter
    from c2s_pipeline.build.builder import build
    from c2s_pipeline.stages.images import Images
    from c2s_pipeline.stages.masks import Masks
    from c2s_pipeline.stages.regions import Regions
    from c2s_pipeline.teachers.image_teacher import ImageTeacher

    name, weights = world.size((TEACHER, None), (VIT, "random"))
    settings = rehearsed(world) | world.size({"limit": 8}, {})
    precision = "bfloat16" if world.on_gpu else "float32"
    request = build_request(name, weights, "coco-stuff", precision=precision, **settings)
    source = load_dataset("coco-stuff", photos(world)).split("train")
    spent = Spent()
    with contextlib.ExitStack() as stack:
        for what, owner, method in (
            ("reading, decoding", Images, "compute"),
            ("passes of images", ImageTeacher, "dense"),
            ("passes of regions", ImageTeacher, "embed_images"),
            ("seeds, clusters, masks", Masks, "compute"),
            ("regions, passes included", Regions, "compute"),
            ("compressing, writing, reading back", BlockWriter, "write"),
        ):
            stack.enter_context(spent.of(what, owner, method))
        local = stack.enter_context(
            distributed.LocalCluster(
                n_workers=1, threads_per_worker=3, processes=False, dashboard_address=":0"
            )
        )
        seen = stack.enter_context(watched())
        began = time.perf_counter()
        report = build(source, request, world.place("time.zarr"), scheduler=local.scheduler.address)
        wall = time.perf_counter() - began
    each = {k: 1000 * v / report.rows for k, v in spent.seconds.items()}
    each["regions, passes left out"] = (
        each.pop("regions, passes included") - each["passes of regions"]
    )
    total = sum(each.values())
    rows = [{"what": k, "ms an image": v, "share": v / total} for k, v in each.items()]
    passes = (each["passes of images"] + each["passes of regions"]) * report.rows / 1000
    figures = {
        "rows": rows,
        "images": report.rows,
        "images/s with loading and class sentences": report.rows / wall,
        "share of the wall in passes, and in waiting for one's turn": passes / wall,
        "watched": seen,
    }
    return figures | state()


class Spent:
    """Seconds that threads spend in methods, their waiting included; what is within another counts twice."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def of(self, what: str, owner: type, method: str) -> Iterator[None]:
        """Count the time in `owner.method` under that name meanwhile."""
        plain = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                with self._lock:
                    self.seconds[what] += time.perf_counter() - began

        with mock.patch.object(owner, method, timed):
            yield


def segformer_b4(world: World) -> dict[str, Any]:
    """Steps of SegFormer-B4 at 512 pixels, batch 16, bf16: cached, on labels, held, online."""
    return _train(world, world.size("segformer-b0", "segformer-b4"))


def segnext_b(world: World) -> dict[str, Any]:
    """The same of SegNeXt-B."""
    return _train(world, world.size("segnext-t", "segnext-b"))


def setr_b(world: World) -> dict[str, Any]:
    """The same of SETR-B."""
    return _train(world, world.size("shapes-net", "setr-b"))


def _train(world: World, student: str) -> dict[str, Any]:
    from c2s.bench.train import bench_train

    cache = photo_cache(world)
    with watched() as seen:
        facts = bench_train(
            cache,
            None,
            None,
            student,
            steps=world.size(1, 14),  # more than a loader keeps ready
            batch_size=world.size(2, 16),
            workers=world.size(0, 3),
            rounds=world.size(1, 2),
            image_size=world.size(64, None),
            precision=world.size("32-true", "bf16-mixed"),
            held_there=True,
        )
    peaks = facts.get("peak_memory_mib", {})
    streamed = facts["ours"]
    rows = []
    for side, rounds in facts["sides"].items():
        its = sorted(rounds)[len(rounds) // 2]
        row = {"steps": side, "it/s": its, "ms": 1000 / its, "cached / this": streamed / its}
        rows.append({**row, "peak MiB": peaks.get(side)})
    what = {k: facts["what"][k] for k in ("student", "batch", "view", "precision")}
    reason = {"online": facts["online_reason"]} if "online_reason" in facts else {}
    return {"rows": rows, **what, **reason, "watched": seen, **state()}


def loader(world: World) -> dict[str, Any]:
    """Images per second of one loader process, of a 640 x 480 JPEG each."""
    from c2s.bench.loader import bench_loader

    facts = bench_loader(photo_cache(world), world.size(8, 384), world.size(2, 16), 2)
    rows = [{"loader": k, "images/s": max(v)} for k, v in facts["sides"].items()]
    named = {"against": facts["what"]["reference"], "view": facts["what"]["view"]}
    return {"rows": rows, "ratio": facts["ratio"], **named}


def kmeans(world: World) -> dict[str, Any]:
    """K-means of ViT-B/16's tokens: torch on this device against scikit-learn on the CPU."""
    from c2s.bench.cluster import bench_cluster

    name, weights = world.size((None, None), (VIT, "random"))
    facts = bench_cluster(name, weights, world.size(25, 512), 2)
    rows = [{"backend": k, "images/s": sorted(v)[len(v) // 2]} for k, v in facts["sides"].items()]
    keys = ("tokens per image", "seeds per image", "width")
    return {"rows": rows, "ratio": facts["ratio"], **{k: facts["what"][k] for k in keys}}


def cuml(world: World) -> dict[str, Any]:
    """K-means of RAPIDS cuML beside the others, where it is installed."""
    import importlib.util

    if importlib.util.find_spec("cuml") is None:
        raise Skipped("cuML is not installed, and its hundreds of MiB cannot be carried.")
    return kmeans(world)


def infer(world: World) -> dict[str, Any]:
    """Milliseconds an image at batch 1 and 16: folded student, its library's own, before folding."""
    from c2s.bench.infer import bench_infer

    rows = []
    student, size = world.size(("segformer-b0", 64), ("segformer-b4", 512))
    for batch in world.size((1, 2), (1, 16)):
        facts = bench_infer(None, student, world.size(16, 171), size, batch, world.size(1, 5))
        middle = {k: sorted(v)[len(v) // 2] for k, v in facts["sides"].items()}
        ms = {f"{k}, ms": 1000 / v for k, v in middle.items()}
        peak = facts.get("peak_memory_mib", {}).get("folded")
        rows.append({"batch": batch, **ms, "folded / stock": facts["ratio"], "peak MiB": peak})
    named = {"student": student, "pixels": size, "precision": "float32"}
    return {"rows": rows, **named, **state()}


IMAGES, ITERATIONS = 118_287, 80_000
"""Of COCO-Stuff's training split, and of the paper's schedule for it."""


def hour(world: World) -> dict[str, Any]:
    """What one GPU hour buys: COCO-Stuff built and trained, as reckoned from the other steps."""
    rows = []
    for row in [
        *world.figures("build-speed").get("rows", ()),
        *world.figures("build-512").get("rows", ()),
    ]:
        rate_ = row["build, images/s"]
        what = f"cache, {row['precision']}, dense {row['dense size']}"
        rows.append(
            {"COCO-Stuff": what, "hours": IMAGES / rate_ / 3600, "an hour buys": 3600 * rate_}
        )
    for step in ("segformer-b4", "segnext-b", "setr-b"):
        for row in world.figures(step).get("rows", ()):
            if row["steps"] in ("streamed", "online"):
                its = row["it/s"]
                what = f"{step}, {row['steps']}, {ITERATIONS} iterations"
                rows.append(
                    {
                        "COCO-Stuff": what,
                        "hours": ITERATIONS / its / 3600,
                        "an hour buys": 3600 * its,
                    }
                )
    if not rows:
        raise Skipped("It is reckoned from builds and trainings, and none was measured.")
    return {"rows": rows, "an hour buys": "images of a cache, or iterations"}


def demo(world: World) -> dict[str, Any]:
    """`c2s demo` on this device, whole on a GPU."""
    from c2s.demo.run import run

    settings = ["accelerator=gpu" if world.on_gpu else "accelerator=cpu"]
    settings += world.size(["iterations=4", "batch_size=8"], [])
    began = time.monotonic()
    images, limit = world.size((60, 8), (None, None))
    facts = run(1, world.place("demo"), "best", images, limit, settings)
    rows = [{k: v for k, v in row.items() if k != "seeds"} for row in facts["rows"]]
    built = {"cache, s": facts["build"]["seconds"], "images": facts["build"]["images"]}
    return {"rows": rows, **built, "all, s": time.monotonic() - began}
