"""The machine: card, driver, versions; its clock and power while something is measured."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from c2s.gpu.processes import machine_memory
from c2s.gpu.world import World

PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "transformers", "timm", "open_clip_torch"),
    *("numpy", "scipy", "scikit-learn", "zarr", "zarrs", "numcodecs", "dask", "distributed"),
    *("pydantic", "pillow", "triton", "webdataset", "cuml-cu13"),
)
STATE = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "pstate")
WATCHED = ("utilization.gpu", "clocks.sm", "power.draw")


def machine(world: World) -> dict[str, Any]:
    """Facts of the machine."""
    import torch

    from c2s_pipeline.build.provenance import versions

    facts: dict[str, Any] = {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": next(iter(query("driver_version") or ()), None),
        "cuda": torch.version.cuda,
        "cudnn": _cudnn(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(machine_memory() / 2**30, 1),
        "system": platform.platform(),
        "versions": versions(PACKAGES),
    }
    if torch.cuda.is_available():
        torch.ones(8, device="cuda").sum().item()  # it really computes
        properties = torch.cuda.get_device_properties(0)
        facts["card_memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["multiprocessors"] = properties.multi_processor_count
        facts["state"] = state()
    return facts


def _cudnn() -> int | None:
    import torch

    version: Any = torch.backends.cudnn.version
    found: int | None = version()
    return found


def query(*names: str) -> list[str] | None:
    """What nvidia-smi answers of the first GPU; None where it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [part.strip() for part in done.stdout.strip().split(",")]


def state() -> dict[str, str]:
    """Clocks, power and temperature of this moment; empty without nvidia-smi."""
    return dict(zip(STATE, query(*STATE) or (), strict=False))


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Look at the GPU five times a second meanwhile.

    Yields:
        a mapping that at the end holds the means: `utilization.gpu` in per cent of the time, `clocks.sm` in
        MHz, `power.draw` in W; empty without nvidia-smi.
    """
    seen: dict[str, float] = {}
    command = ["nvidia-smi", f"--query-gpu={','.join(WATCHED)}", "--id=0", "--loop-ms=200"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        try:
            looking = subprocess.Popen([*command, "--format=csv,noheader,nounits"], stdout=out)
        except OSError:
            yield seen
            return
        try:
            yield seen
        finally:
            looking.terminate()
            looking.wait()
            out.seek(0)
            columns = zip(*(line.split(",") for line in out if line.count(",") == 2), strict=True)
            for name, cells in zip(WATCHED, columns, strict=False):
                if values := [float(cell) for cell in cells if _is_number(cell)]:
                    seen[name] = round(mean(values), 1)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _processor() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
