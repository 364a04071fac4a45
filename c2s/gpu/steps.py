"""The steps of `make gpu`, the most valuable first, each with its time box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One thing to be shown.

    Args:
        name: of the step in `STEPS="..."` and in gpu.json.
        function: "module:name" of a function `(World) -> dict` of figures.
        seconds: time box, after which it is killed with all its processes.
        what: it shows, in a few words.
        alone: it measures, so nothing runs beside it.
    """

    name: str
    function: str
    seconds: float
    what: str
    alone: bool = False


def _step(name: str, module: str, seconds: float, what: str, alone: bool = False) -> Step:
    function = name.replace("-", "_")
    return Step(name, f"c2s.gpu.{module}:{function}", seconds, what, alone)


SETUP = _step("setup", "setup", 300, "an environment for the other steps")
MACHINE = _step("machine", "machine", 90, "card, driver, versions, commit")
STEPS: tuple[Step, ...] = (
    _step("inputs", "inputs", 150, "photos and caches that other steps share"),
    _step("agreement", "agreement", 120, "the teacher on GPU and CPU, in every precision"),
    _step("build", "builds", 180, "caches of one device verified on the other"),
    _step("one-step", "agreement", 120, "losses of three iterations on GPU and CPU"),
    _step("train", "training", 120, "training in float32 and below"),
    _step("resume", "training", 180, "SIGTERM and --resume, equal to the bit"),
    _step("scores", "inference", 120, "eval and predict on GPU and CPU"),
    _step("export", "inference", 90, "folded model and exported program on GPU and CPU"),
    _step("clusters", "agreement", 60, "K-means on GPU and CPU"),
    _step("online", "training", 90, "CLIP in the loop against the cache"),
    _step("ddp", "training", 90, "DDP with one process against none"),
    _step("compile", "training", 150, "the student compiled"),
    _step("two-builds", "builds", 90, "two builds at once on one GPU"),
    _step("tests", "training", 150, "the tests marked gpu"),
    _step("matmul", "speed", 60, "what the chip can do", alone=True),
    _step("build-speed", "speed", 150, "builds by ViT-B/16 at 224 against the teacher", alone=True),
    _step("segformer-b4", "speed", 120, "training steps at 512 pixels, batch 16, bf16", alone=True),
    _step("build-time", "speed", 90, "where the time of a build goes", alone=True),
    _step("memory-build", "builds", 120, "a build that runs out of GPU memory", alone=True),
    _step("memory-train", "training", 120, "a training that runs out of GPU memory", alone=True),
    _step("infer", "speed", 60, "inference, milliseconds an image", alone=True),
    _step("kmeans", "speed", 60, "K-means in torch against scikit-learn", alone=True),
    _step("build-512", "speed", 90, "builds with --dense-size 512", alone=True),
    _step("loader", "speed", 60, "batches from a cache", alone=True),
    _step("segnext-b", "speed", 90, "training steps of SegNeXt-B", alone=True),
    _step("setr-b", "speed", 90, "training steps of SETR-B", alone=True),
    _step("demo", "speed", 120, "the demo, with its times", alone=True),
    _step("cuml", "speed", 60, "K-means of cuML", alone=True),
    _step("hour", "speed", 30, "what one GPU hour buys"),
)


def chosen(names: Sequence[str]) -> list[Step]:
    """The steps of those names in their order; all if none is named.

    Raises:
        ValueError: there is no step of such a name; the message lists all.
    """
    unknown = [name for name in names if name not in {s.name for s in STEPS}]
    if unknown:
        known = " ".join(step.name for step in STEPS)
        raise ValueError(f"there is no step {', '.join(unknown)}; the steps are: {known}")
    return [step for step in STEPS if not names or step.name in names]
