"""Invariant: a metrics file has one record per logged iteration, in order, also across resumes."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any


class MetricsLog:
    """`metrics.jsonl`, `metrics.csv` and, if tensorboard is installed, `tensorboard/`.

    Records beyond `start`, left by a run that went on after its last checkpoint, are removed.

    Args:
        run: run folder.
        start: iterations done when this log opens.
    """

    def __init__(self, run: Path, start: int = 0) -> None:
        self.jsonl, self.csv = run / "metrics.jsonl", run / "metrics.csv"
        records = [r for r in read_metrics(run) if r["step"] <= start]
        self.jsonl.write_text("".join(json.dumps(r) + "\n" for r in records))
        self._columns: list[str] = list(records[0]) if records else []
        if records:
            with self.csv.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(records)
        else:
            self.csv.unlink(missing_ok=True)
        self._board = _board(run / "tensorboard", start)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append the record of an iteration."""
        record = {"step": step, **{k: round(v, 9) for k, v in metrics.items()}}
        with self.jsonl.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        with self.csv.open("a", newline="") as table:
            writer = csv.DictWriter(table, self._columns or list(record), extrasaction="ignore")
            if not self._columns:
                self._columns = list(record)
                writer.writeheader()
            writer.writerow(record)
        if self._board is not None:
            self._board.log_metrics(metrics, step)

    def close(self) -> None:
        """Flush what is buffered."""
        if self._board is not None:
            self._board.finalize("success")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Records of a run's `metrics.jsonl`; a last line that was cut short is left out."""
    file = run / "metrics.jsonl"
    records = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _board(folder: Path, start: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(
        folder.parent, name="", version=folder.name, purge_step=start + 1 if start else None
    )
