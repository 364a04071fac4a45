"""Invariant: whatever a step does, its end is recorded and the next one starts; the report is there in time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2s.gpu.processes import MIB, end, ended, family
from c2s.gpu.steps import Step

PAUSE = 0.2
"""Seconds between two looks at the running steps."""
Record = Callable[[str, dict[str, Any]], None]
"""Told of the end of each step: its name, and state, seconds, figures, ..."""


@dataclass
class Running:
    """A step under way. `peak` is the most that its processes held together, in bytes; `processor` the
    seconds that they computed, once it is over."""

    step: Step
    process: subprocess.Popen[bytes]
    started: float
    result: Path
    peak: int = 0
    processor: float = 0.0


@dataclass
class Runner:
    """Runs steps in order: those that measure alone, the others side by side where there are cores.

    Attributes:
        python: interpreter of the steps.
        folder: for their results and logs, and the world that they open.
        deadline: `time.monotonic()` at which all must be over.
        memory: bytes that a step may hold before it is killed.
        record: told of every end.
        lanes: steps that may run side by side.
        measures: steps that measure have the machine to themselves; in a rehearsal there is nothing to measure.
        patience: factor on time boxes, for a slow machine.
        stopped: name of the signal that asked to stop, if one did.
    """

    python: str
    folder: Path
    deadline: float
    memory: int
    record: Record
    lanes: int = 1
    measures: bool = True
    patience: float = 1.0
    stopped: str | None = None

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps; returns when all are recorded."""
        waiting, running = list(steps), list[Running]()
        try:
            while waiting or running:
                over = self._over()
                if over:
                    break
                while waiting and self._may_start(waiting[0], running):
                    running.append(self._start(waiting.pop(0)))
                time.sleep(PAUSE)
                for one in list(running):
                    if (found := self._look(one)) is not None:
                        running.remove(one)
                        self.record(one.step.name, found)
            over = self._over() or "the run was broken off"
            for one in running:
                self.record(one.step.name, self._kill(one, "timed out", f"Killed: {over}."))
            running.clear()
            for step in waiting:
                note = f"Not begun: {over}. Repeat with STEPS={step.name}."
                self.record(step.name, {"state": "skipped", "sentence": note, "seconds": 0.0})
        finally:
            for one in running:
                end(one.process)

    def _over(self) -> str | None:
        """Why nothing more may run."""
        if self.stopped:
            return f"{self.stopped} came"
        return "no minutes were left" if time.monotonic() >= self.deadline else None

    def _may_start(self, step: Step, running: Sequence[Running]) -> bool:
        if self.measures and (step.alone or any(one.step.alone for one in running)):
            return not running
        return len(running) < self.lanes

    def log(self, step: Step) -> Path:
        """Where what a step prints goes."""
        return self.folder / "logs" / f"{step.name}.log"

    def _start(self, step: Step) -> Running:
        result, log = self.folder / "results" / f"{step.name}.json", self.log(step)
        for path in (result, log):
            path.parent.mkdir(parents=True, exist_ok=True)
        result.unlink(missing_ok=True)
        command = [self.python, "-m", "c2s.gpu.child", step.function, str(self.folder), str(result)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        return Running(step, process, time.monotonic(), result)

    def _look(self, one: Running) -> dict[str, Any] | None:
        """How a step ended, or None while it runs and may."""
        if ended(one.process):
            one.processor = end(one.process)
            return self._ended(one)
        held = sum(family(one.process.pid).values())
        one.peak = max(one.peak, held)
        if held > self.memory:
            note = f"Killed: it held {held / MIB:.0f} MiB, more than the {self.memory / MIB:.0f} allowed."
            return self._kill(one, "failed", note)
        box = self.patience * one.step.seconds
        if time.monotonic() - one.started > box:
            note = f"Killed: its time box of {box:.0f} s was over."
            return self._kill(one, "timed out", note)
        return None

    def _kill(self, one: Running, state: str, sentence: str) -> dict[str, Any]:
        with contextlib.suppress(ProcessLookupError):
            one.process.send_signal(signal.SIGUSR1)  # it writes into its log where it is
        time.sleep(PAUSE)
        one.processor = end(one.process)
        return {"state": state, "sentence": sentence, **self._measures(one)}

    def _ended(self, one: Running) -> dict[str, Any]:
        try:
            found = json.loads(one.result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"state": "failed", "sentence": self._death(one), **self._measures(one)}
        return {**found, **self._measures(one)}

    def _death(self, one: Running) -> str:
        code = one.process.returncode
        if code == -signal.SIGKILL:
            return "Killed from outside (SIGKILL): the machine probably ran out of memory."
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = (
            self.log(one.step).read_text(errors="replace", encoding="utf-8").strip().splitlines()
        )
        return f"It died by {how}: {lines[-1] if lines else 'without a word'}"[:300]

    def _measures(self, one: Running) -> dict[str, Any]:
        return {
            "seconds": round(time.monotonic() - one.started, 1),
            "processor_seconds": round(one.processor, 2),
            "peak_memory_mib": round(one.peak / MIB, 1),
        }
