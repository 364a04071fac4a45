"""Invariant: gpu.json is whole at any moment, and gpu.md is made from it and from nothing else."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from c2s.gpu.steps import MACHINE, SETUP, STEPS
from c2s.gpu.tables import markdown

LOG_BYTES = 200_000
"""Of each step's log, its end."""


class Report:
    """The report of a run, written anew after every step: gpu.json, gpu.md and gpu.log.

    Args:
        folders: where it is written; the first one is also where an earlier report may lie.
        logs: folder of the steps' logs.
    """

    def __init__(self, folders: Sequence[Path], logs: Path, keep: bool) -> None:
        self.folders, self._logs = list(dict.fromkeys(folders)), logs
        self.facts: dict[str, Any] = {"machine": {}, "steps": {}}
        if keep:
            for folder in self.folders:
                with contextlib.suppress(OSError, ValueError):
                    found = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
                    self.facts["steps"] = dict(found["steps"])
                    break

    @property
    def file(self) -> Path:
        """gpu.json."""
        return self.folders[0] / "gpu.json"

    def machine(self, facts: Mapping[str, Any]) -> None:
        """What is known of the machine."""
        self.facts["machine"] = dict(facts)
        self.write()

    def step(self, name: str, found: Mapping[str, Any]) -> None:
        """The end of a step; a repetition takes the place of what was there, but one that was not begun
        does not."""
        before, known = self.facts["steps"].get(name), self.facts["machine"]
        if before is None or found.get("seconds") or before["state"] == "skipped":
            on = {"on": known.get("card"), "commit": known.get("commit")}
            self.facts["steps"][name] = {"figures": {}, **found, **on}
        self.write()

    @property
    def bad(self) -> list[str]:
        """Steps that failed or timed out."""
        states = {name: step["state"] for name, step in self.facts["steps"].items()}
        return [name for name, state in states.items() if state in ("failed", "timed out")]

    def write(self) -> None:
        """Write the three files."""
        order = {step.name: i for i, step in enumerate((SETUP, MACHINE, *STEPS))}
        steps = sorted(self.facts["steps"].items(), key=lambda s: order.get(s[0], len(order)))
        self.facts["steps"] = dict(steps)
        written = {
            "gpu.json": json.dumps(self.facts, indent=1) + "\n",
            "gpu.md": markdown(self.facts),
            "gpu.log": "".join(self._log(name) for name in self.facts["steps"]),
        }
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in written.items():
                part = folder / f".{name}.part"
                part.write_text(text, encoding="utf-8")
                part.replace(folder / name)

    def _log(self, name: str) -> str:
        try:
            with (self._logs / f"{name}.log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return f"===== {name} =====\n{text}\n"
