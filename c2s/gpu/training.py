"""Training on the GPU: precisions, compiled, interrupted and resumed, under DDP, online, without memory."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from c2s.gpu.builds import NOTHING_STARVED, starved, told
from c2s.gpu.inputs import difference, losses, shapes_cache, train_options
from c2s.gpu.world import Failed, Skipped, World

CLOSE = 0.1
"""How far the mean loss of another precision, over the last iterations, may be from float32's."""


def train(world: World) -> dict[str, Any]:
    """`c2s train` in float32 and bf16-mixed: both learn, and about the same."""
    cache, folder = shapes_cache(world), world.place("runs-train")
    rows = []
    for precision in ("32-true", "bf16-mixed", *world.size((), ("16-mixed",))):
        began = time.monotonic()
        options = train_options(world, precision=precision)
        world.here(
            "train", "--cache", cache, "--runs", folder, "--name", f"p-{precision}", *options
        )
        found = losses(folder / f"p-{precision}")
        row = {"precision": precision, "iterations": len(found), "first loss": found[0]}
        seconds = round(time.monotonic() - began, 1)
        rows.append({**row, "last losses": float(np.mean(found[-5:])), "s": seconds})
    return {"rows": rows, **_learnt(rows, world)}


def _learnt(rows: list[dict[str, Any]], world: World) -> dict[str, Any]:
    """Whether all of them learnt; as float32 did, where there were iterations enough."""
    plain = rows[0]
    for row in rows:
        apart = abs(row["last losses"] / plain["last losses"] - 1)
        row["from float32"] = apart
        if not row["last losses"] < row["first loss"] * world.size(1.5, 1.0) or apart > CLOSE:
            what = f"{row['precision']}: {row['first loss']:.3f} to {row['last losses']:.3f}"
            raise Failed(
                f"Training in another precision does not learn alike: {what}.", {"rows": rows}
            )
    return {}


def compile(world: World) -> dict[str, Any]:
    """`compile=true` gives the losses of the plain student; how long the first step takes."""
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise Skipped("torch.compile needs a C++ compiler, and there is none.")
    cache, folder = shapes_cache(world), world.place("runs-compile")
    found = {}
    times = {}
    for name in ("false", "true"):
        options = train_options(world, compile=name, iterations=world.size(3, 30))
        began = time.monotonic()
        world.here("train", "--cache", cache, "--runs", folder, "--name", f"c-{name}", *options)
        found[name], times[name] = losses(folder / f"c-{name}"), round(time.monotonic() - began, 1)
    figures = {
        "first losses apart": difference(found["false"][:2], found["true"][:2]),
        "s plain": times["false"],
        "s compiled": times["true"],
    }
    if not figures["first losses apart"] < 1e-2:
        raise Failed("The compiled student's losses are others.", figures)
    return figures


def resume(world: World) -> dict[str, Any]:
    """SIGTERM in the middle and `--resume`, against the same run left alone: equal to the bit.

    On a GPU that takes `deterministic=true`, for some kernels add in an order that changes; how far two runs
    without it drift apart is a figure.
    """
    cache, folder = shapes_cache(world), world.place("runs-resume")
    total = world.size(8, 200)
    where = ["--cache", cache, "--runs", folder]
    options = train_options(world, iterations=total, deterministic="true")
    world.here("train", *where, "--name", "whole", *options)
    stopped = folder / "stopped"
    code = interrupted(world, stopped, ["--cache", cache, *options], after=total // 4)
    at = len(losses(stopped))
    world.here("train", "--resume", stopped)
    plain = train_options(world, iterations=total)
    for name in world.size((), ("plain", "plain-again")):
        world.here("train", *where, "--name", name, *plain)
    figures = {
        "exit code of SIGTERM": code,
        "stopped at": at,
        "of": total,
        "resumed equal": equal(folder / "whole", stopped),
        "losses apart": difference(losses(folder / "whole"), losses(stopped)),
    }
    if not world.small:
        pair = folder / "plain", folder / "plain-again"
        figures["two plain runs equal"] = equal(*pair)
        figures["their losses apart"] = difference(*map(losses, pair))
    if not 0 < at < total:
        raise Failed(f"SIGTERM came at iteration {at} of {total}: nothing was resumed.", figures)
    if not figures["resumed equal"]:
        raise Failed("A resumed run is another one than the run that was left alone.", figures)
    return figures


def interrupted(world: World, run: Path, arguments: list[Any], after: int) -> int:
    """Start a training, and end it by SIGTERM once so many iterations are logged; its exit code."""
    process = world.start("train", "--runs", run.parent, "--name", run.name, *arguments)
    while process.poll() is None and len(losses(run)) < after:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    return world.finish(process).code


def equal(first: Path, second: Path) -> bool:
    """Whether two runs ended with the same weights."""
    from c2s.runs.run import open_run

    one, two = (open_run(run).student.state_dict() for run in (first, second))
    return one.keys() == two.keys() and all(bool((one[k] == two[k]).all()) for k in one)


def ddp(world: World) -> dict[str, Any]:
    """One process under DDP, with synchronised batch statistics on a GPU, against the plain Trainer."""
    import pytorch_lightning as pl

    from c2s.runs.config import load_config
    from c2s.training.datamodule import C2SDataModule
    from c2s.training.run import build_module

    class Losses(pl.Callback):
        """Notes every loss."""

        def __init__(self) -> None:
            self.values: list[float] = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            self.values.append(float(outputs["loss"]))

    cache = shapes_cache(world)
    options: dict[str, Any] = {"batch_size": 8, "iterations": world.size(4, 20), "log_every": 1}
    options |= {"cache": cache, "student": "shapes-net", "workers": 0, "loggers": ()}
    config = load_config(**options)
    found = {}
    for strategy in ("auto", "ddp_find_unused_parameters_true"):
        seen = Losses()
        trainer = pl.Trainer(
            max_steps=config.total,
            accelerator="gpu" if world.on_gpu else "cpu",
            devices=1,
            strategy=strategy,
            sync_batchnorm=strategy != "auto" and world.on_gpu,
            callbacks=[seen],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(build_module(config), C2SDataModule(config))
        found[strategy] = seen.values
    plain, several = found.values()
    figures = {
        "first losses apart": difference(plain[:2], several[:2]),
        "all losses apart": difference(plain, several),
        "iterations": len(plain),
    }
    if not figures["first losses apart"] < 1e-3:
        raise Failed("Under DDP with one process the losses are others.", figures)
    return figures


def online(world: World) -> dict[str, Any]:
    """`--teacher online` on the GPU against the same iterations from the cache."""
    cache, folder = shapes_cache(world), world.place("runs-online")
    options = train_options(world, iterations=world.size(3, 30))
    where = ["--cache", cache, "--runs", folder, *options]
    world.here("train", *where, "--name", "cached")
    world.here("train", *where, "--name", "online", "--teacher", "online")
    cached, asked = losses(folder / "cached"), losses(folder / "online")
    figures = {
        "first loss apart": difference(cached[:1], asked[:1]),
        "all losses apart": difference(cached, asked),
    }
    if not figures["first loss apart"] < 2e-3:
        raise Failed("CLIP in the loop gives another first loss than the cache.", figures)
    return figures


def memory_train(world: World) -> dict[str, Any]:
    """A resumed training that runs out of GPU memory says so in one sentence and keeps its checkpoint."""
    cache, folder = shapes_cache(world), world.place("runs-memory")
    full = {"image_size": 512, "batch_size": 16}
    large = world.size({"image_size": 64, "batch_size": 8}, full)
    total = world.size(6, 12)
    options = train_options(world, iterations=total, checkpoint_every=2, **large)
    run = folder / "starved"
    arguments = ["--cache", cache, "--student", "segformer-b0", *options]
    interrupted(world, run, arguments, after=total // 3)
    before = _saved(run)
    if not world.on_gpu:
        world.run("train", "--resume", run)
        raise Skipped(NOTHING_STARVED, {"iterations": len(losses(run))})
    with starved(world, 2.5):
        first = world.command("train", "--resume", run)
    kept = _saved(run) == before
    world.run("train", "--resume", run)
    figures = {"starved": told(first), "checkpoint kept": kept, "iterations": len(losses(run))}
    said = told(first)
    if not (said["in one sentence"] and said["of memory"] and kept):
        raise Failed(f"A starved training did not say so in one sentence: {first.last}", figures)
    return figures


def _saved(run: Path) -> dict[str, bytes]:
    """Files of a run's checkpoint."""
    from c2s.runs.checkpoint import checkpoint_folder

    return {p.name: p.read_bytes() for p in checkpoint_folder(run).iterdir() if p.is_file()}


def tests(world: World) -> dict[str, Any]:
    """The tests that need a GPU."""
    import importlib.util
    import sys

    root = Path(__file__).parents[2]
    if not (root / "tests").is_dir() or importlib.util.find_spec("pytest") is None:
        raise Skipped("Tests or pytest are not on this machine.")
    files = [
        f for f in (root / "tests").rglob("test_*.py") if _marked(f.read_text(encoding="utf-8"))
    ]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += map(str, files)
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    print(done.stdout, done.stderr, sep="\n")
    last = (done.stdout.strip().splitlines() or ["pytest said nothing"])[-1].strip("= ")
    if done.returncode:
        raise Failed(f"Of the tests marked gpu: {last}", {"result": last})
    if not world.on_gpu:
        raise Skipped(
            "No GPU is here, so the tests that are marked gpu were skipped.", {"result": last}
        )
    return {"result": last}


def _marked(text: str) -> bool:
    """Whether a file has tests marked gpu: collecting all others takes longer than they do."""
    return "mark.gpu" in text or "DEVICES" in text
