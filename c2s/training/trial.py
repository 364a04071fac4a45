"""Invariant: what an iteration takes is measured on a few images, never on so many that memory runs out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from c2s.methods.batch import Batch
from c2s.methods.examples import CutView
from c2s.runs.config import TrainConfig
from c2s.training.datamodule import C2SDataModule
from c2s.training.module import DistillationModule
from c2s.training.run import build_module
from c2s.training.trainer import on_gpu
from c2s_cache.reader import Cache

FEW, MORE = 2, 4
"""Images, or clips, of the two iterations that are tried; batch statistics need two."""
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Trial:
    """What an iteration of `few` images takes, and what each further image adds: seconds, and bytes of the whole
    process or of the GPU. `available` are the bytes that there are for it; None: it is not known."""

    seconds: float
    bytes: int
    more_seconds: float
    more_bytes: int
    available: int | None
    few: int = FEW

    def seconds_of(self, images: int) -> float:
        """Of an iteration of so many images."""
        return max(self.seconds + (images - self.few) * self.more_seconds, 0.0)

    def bytes_of(self, images: int) -> int:
        """Of an iteration of so many images, at its peak."""
        return max(self.bytes + (images - self.few) * self.more_bytes, 0)


def try_training(config: TrainConfig, cache: Cache) -> Trial:
    """Train on a few images, and forget it.

    Args:
        config: resolved; loader processes and an online teacher have no part in the trial.
        cache: the opened cache.

    Raises:
        C2SError: as a training.
    """
    device = torch.device("cuda" if on_gpu(config) else "cpu")
    available = _available(device)
    few, more = (count * config.method.clip_frames for count in (FEW, MORE))
    seconds, size = _tried(config, cache, few, device)
    if available is not None and 2 * size > available:
        return Trial(seconds, size, seconds / few, size // few, available, few)
    more_seconds, more_size = _tried(config, cache, more, device)
    further = more - few
    return Trial(
        seconds,
        size,
        max(more_seconds - seconds, 0.0) / further,
        max(more_size - size, 0) // further,
        available,
        few,
    )


def training_step(
    module: DistillationModule, optimizer: torch.optim.Optimizer, batch: Batch
) -> None:
    """Forward, losses, backward and optimizer step, without a Trainer."""
    optimizer.zero_grad(set_to_none=True)
    half = module.config.precision == "bf16-mixed"
    with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=half):
        losses = module.training_step(batch, 0)
    torch.autograd.backward(losses["loss"])
    optimizer.step()


def _tried(
    config: TrainConfig, cache: Cache, images: int, device: torch.device
) -> tuple[float, int]:
    """Seconds of the second of two iterations of so many images, and the bytes that were needed."""
    alone = {"batch_size": images, "accumulate": 1, "workers": 0, "teacher": "cache"}
    config = config.model_copy(update=alone)
    data = C2SDataModule(config, cache)
    module = build_module(config, cache).to(device).train()
    optimizer = module.configure_optimizers()["optimizer"]
    batches: Iterator[Batch | list[CutView]] = iter(data.stream(0, 2))
    _forget_peak(device)
    took = 0.0
    for batch in batches:
        began = time.perf_counter()
        there = data.transfer_batch_to_device(batch, device, 0)
        training_step(module, optimizer, there)
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
    return took, _peak(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif PEAK.exists():
        PEAK.write_text("5", encoding="utf-8")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if PEAK.exists():
        return _kib(STATUS, "VmHWM") or 0
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _available(device: torch.device) -> int | None:
    """Bytes that a process may hold, what this one holds included: of the machine, or of its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    if (free := _kib(MEMORY, "MemAvailable")) is None:
        return None
    try:
        whole, used = (
            (GROUP / f"memory.{name}").read_text(encoding="utf-8") for name in ("max", "current")
        )
        free = min(free, int(whole) - int(used)) if whole.strip() != "max" else free
    except (OSError, ValueError):
        pass  # no container, or one of another kind
    return free + (_kib(STATUS, "VmRSS") or 0)


def _kib(file: Path, key: str) -> int | None:
    """Bytes of a line `key: N kB` of a file of the kernel."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        return None
