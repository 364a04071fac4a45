"""Training from a cache against the same steps on batches in memory, on labels alone, and with CLIP in
the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from c2s.bench.inputs import cache_of
from c2s.bench.measure import alternate, device_name, result
from c2s.bench.step_split import step_split
from c2s.config import merge
from c2s.evaluation.evaluate import compute_device
from c2s.methods.batch import Batch
from c2s.methods.examples import CutView
from c2s.methods.registry import DEFAULT, method_config, run_defaults
from c2s.online import load_online_teacher
from c2s.runs.config import TrainConfig, load_config
from c2s.training.datamodule import C2SDataModule
from c2s.training.run import build_module
from c2s.training.stream import loader
from c2s.training.trial import training_step
from c2s_cache import C2SError, Cache, ConfigError

StudentOption = Literal["compile", "channels_last"]
ONLINE_SHARE = 5
"""Iterations per round of the other sides for one with CLIP in the loop, which takes far longer."""


def bench_train(
    cache: Path | None = None,
    teacher: str | None = None,
    pretrained: str | None = None,
    student: str | None = None,
    images: int = 500,
    steps: int = 20,
    batch_size: int | None = None,
    workers: int | None = None,
    rounds: int = 5,
    image_size: int | None = None,
    student_options: Sequence[StudentOption] = (),
    advance: Callable[[int], None] | None = None,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    held_there: bool = False,
    method: str = DEFAULT,
) -> dict[str, Any]:
    """Iterations per second: forward, losses, backward, optimizer step, and what feeds them.

    `ratio` compares batches streamed from the cache with the same batches held in memory: what the
    loader costs. `labels_only_ratio` compares with the student on labels alone, streamed too: what
    distillation costs (the first row of the method's main table). `online_ratio` compares with `--teacher
    online` on the same views, or is None, and `online_reason` says why. For every student option,
    `<option>_ratio` compares with it on against the same batches in memory without it. With `held_there`,
    `held_there_ratio` compares with batches that lie on the device already: what nothing but the step
    costs. Optimizer and student are those of a run; checkpoints and logs are left out.
    `peak_memory_mib` is the GPU memory of every side. Of a prompted CLIP, `step_ms` says what the parts
    of a step take.

    Args:
        cache: default a temporary one of Shapes scenes.
        teacher: of the temporary cache; default the bundled one.
        pretrained: weights of the teacher, for the temporary cache and in the loop.
        student: default the data set's.
        images: scenes of the temporary cache.
        steps: iterations per round.
        batch_size, workers: of the run; default the data set's.
        rounds: timed rounds of each side.
        image_size: side of the views in pixels; default the cache's.
        student_options: "compile" and "channels_last".
        precision: of all sides.
        held_there: also time steps on batches that the device holds.
        advance: called after every round.
        method: whose training.
    """
    with cache_of(cache, images, teacher, pretrained, method) as opened:
        defaults = run_defaults(method, opened.manifest.dataset, student)
        defaults = merge(defaults, {"method": {"name": method}})
        options: dict[str, Any] = {
            "student": student,
            "batch_size": batch_size,
            "workers": workers,
            "image_size": image_size,
            "precision": precision,
        }
        defaults = {**defaults, "accelerator": "auto"}
        config = load_config(defaults=defaults, cache=opened.path, **options)
        m = opened.manifest
        config = config.resolved(m)
        table = next(iter(config.method.tables().values()))
        baseline = method_config(merge(config.method.model_dump(), table.rows[0].train["method"]))
        plain = config.model_copy(update={"method": baseline})
        data = C2SDataModule(config, opened)
        held = list(islice(_loaded(data, steps), steps))
        total = steps * (rounds + 1)
        sides = {
            "streamed": _Side(config, data, _loaded(data, total), steps),
            "memory": _Side(config, data, held * (rounds + 1), steps),
            "labels only": _Side(plain, data, _loaded(data, total), steps),
        }
        for option in student_options:
            changed = config.model_copy(update={option: True})
            sides[option] = _Side(changed, data, held * (rounds + 1), steps)
        if held_there:
            there = [
                batch.to(compute_device("auto")) for batch in held if not isinstance(batch, list)
            ]
            sides["held there"] = _Side(config, data, there * (rounds + 1), steps)
        reason = None
        try:
            if not data.examples.teacher_paths:
                raise ConfigError(f"{method} asks the teacher nothing while it trains")
            weights = teacher if teacher and ":" in teacher else pretrained
            asked = config.model_copy(update={"teacher": "online", "teacher_weights": weights})
            sides["online"] = _online(opened, asked, max(1, steps // ONLINE_SHARE), rounds)
        except C2SError as error:
            reason = str(error)
        rates = alternate(sides, rounds, advance=advance)
        split = sides["memory"].split(held[0], rounds, advance)
        peaks = {name: side.peak_mib for name, side in sides.items() if side.peak_mib is not None}
        online = rates["online"].median if "online" in rates else None
        what = {
            "cache": str(cache or "shapes"),
            "method": method,
            "student": config.student,
            "batch": config.batch_size,
            "view": f"{config.image_size} px",
            "precision": config.precision,
            "steps per round": steps,
            "loader processes": config.workers,
            "device": device_name(),
            "threads": torch.get_num_threads(),
        }
        more = {
            "labels_only_ratio": rates["streamed"].median / rates["labels only"].median,
            "online_ratio": online and rates["streamed"].median / online,
            **{f"{o}_ratio": rates[o].median / rates["memory"].median for o in student_options},
            **({"online_reason": reason} if reason else {}),
            **(
                {"held_there_ratio": rates["streamed"].median / rates["held there"].median}
                if held_there
                else {}
            ),
            **({"peak_memory_mib": peaks} if peaks else {}),
            **({"step_ms": split} if split else {}),
        }
        return result("train", rates, "streamed", "memory", "iterations/s", what, **more)


def _online(cache: Cache, config: TrainConfig, steps: int, rounds: int) -> _Side:
    """The same training with CLIP in the loop; raises C2SError if it cannot be loaded."""
    data = C2SDataModule(config, cache, load_online_teacher(config, cache.manifest))
    return _Side(config, data, _loaded(data, steps * (rounds + 1)), steps)


def _loaded(data: C2SDataModule, steps: int) -> Iterator[Batch | list[CutView]]:
    yield from loader(data.stream(0, steps), data.config.workers, torch.cuda.is_available())


class _Side:
    """`steps` iterations per round on the next batches; every side has a model of its own.

    Attributes:
        peak_mib: GPU memory in MiB that its first round took, with weights and optimizer, without what other
            sides and a teacher hold; None on a CPU.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: C2SDataModule,
        batches: Iterable[Batch | list[CutView]],
        steps: int,
    ) -> None:
        self._device, self._steps, self._data = compute_device("auto"), steps, data
        self.peak_mib: float | None = None
        before = torch.cuda.memory_allocated()
        self._module = build_module(config, data.cache).to(self._device).train()
        self._optimizer = self._module.configure_optimizers()["optimizer"]
        self._batches = iter(batches)
        self._weights = torch.cuda.memory_allocated() - before

    def split(
        self, batch: Batch | list[CutView], rounds: int, advance: Callable[[int], None] | None
    ) -> dict[str, float]:
        """See `step_split`."""
        there = self._data.transfer_batch_to_device(batch, self._device, 0)
        return step_split(self._module, self._optimizer, there, rounds, advance)

    def __call__(self) -> int:
        start = torch.cuda.memory_allocated()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for batch in islice(self._batches, self._steps):
            there = self._data.transfer_batch_to_device(batch, self._device, 0)
            training_step(self._module, self._optimizer, there)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            if self.peak_mib is None:
                peak = torch.cuda.max_memory_allocated() - start + self._weights
                self.peak_mib = round(peak / 2**20, 1)
        return self._steps
