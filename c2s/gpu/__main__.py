"""`make gpu`: see `c2s.gpu`. Settings come from the environment: STEPS, GPU_MINUTES, GPU_SIZES, OUT."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from c2s.gpu.processes import machine_memory
from c2s.gpu.report import Report
from c2s.gpu.runner import Runner
from c2s.gpu.sources import origin
from c2s.gpu.steps import MACHINE, SETUP, chosen
from c2s.gpu.world import World, write_world

ROOT = Path(__file__).parents[2]
SHARE = 0.8
"""Of the machine's memory, what one step may hold."""


MOST = 4
"""Steps that run side by side: one to four cores of a machine with a GPU, without one to every core."""
SLOW = 2.0
"""Factor on the time boxes without a GPU."""


def main() -> int:
    """Run the steps; returns the exit code: 1 if one failed or timed out."""
    began = time.monotonic()
    environ = os.environ
    minutes = float(environ.get("GPU_MINUTES") or 9)
    try:
        steps = chosen((environ.get("STEPS") or "").replace(",", " ").split())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = Path(environ["OUT"]).absolute() if environ.get("OUT") else ROOT
    folder = ROOT / ".gpu/work"
    report = Report([out, ROOT], folder / "logs", keep=bool(environ.get("STEPS")))
    if not environ.get("STEPS"):
        shutil.rmtree(folder, ignore_errors=True)  # what steps share is made anew, by this code
    facts: dict[str, dict[str, Any]] = {}

    def record(name: str, found: dict[str, Any]) -> None:
        facts[name] = found
        report.step(name, found)
        words = f"{found['state']:9} {name:16} {found['seconds']:6.1f} s"
        print(words, found.get("sentence", ""), flush=True)

    memory = int(float(environ.get("GPU_MEMORY_GIB") or 0) * 2**30) or int(SHARE * machine_memory())
    runner = Runner(sys.executable, folder, began + 60 * minutes, memory, record)

    def stop(number: int, _: object) -> None:
        runner.stopped = signal.Signals(number).name

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    report.machine({"commit": origin(ROOT), "python": sys.version.split()[0]})
    world = World(folder, "cpu", True, report.file)
    write_world(world)
    runner.run([SETUP])
    python = facts["setup"].get("figures", {}).get("python")
    if python is None:
        left = [MACHINE, *steps]
        note = "Not begun: there is no environment for it; see setup."
        for step in left:
            record(step.name, {"state": "skipped", "sentence": note, "seconds": 0.0})
        return 1
    runner.python = python
    runner.patience = SLOW
    runner.run([MACHINE])
    machine = facts["machine"].get("figures", {})
    report.machine({**report.facts["machine"], **machine})
    gpu = bool(machine.get("card"))
    runner.patience = 1.0 if gpu else SLOW
    sizes = environ.get("GPU_SIZES") or ("full" if gpu else "small")
    write_world(replace(world, device="cuda" if gpu else "cpu", small=sizes == "small"))
    cores = os.cpu_count() or 1
    runner.lanes, runner.measures = min(MOST, cores // 4 if gpu else cores) or 1, sizes != "small"
    runner.run(steps)
    print(
        f"The report: {report.file}, {report.file.with_suffix('.md')}; logs: gpu.log beside them."
    )
    return 1 if any(f["state"] in ("failed", "timed out") for f in facts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
