"""Invariant: a metrics file has the records of a run in order, also across resumes."""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from c2s.training.config import TrainConfig
from c2s_cache.errors import MissingExtra


class MetricsLog(Logger):
    """`metrics.jsonl` and `metrics.csv`; the table has a column for every key of any record.

    Records beyond `start`, left by a run that went on after its last checkpoint, are removed with
    the first new one.

    Args:
        run: run folder.
        start: iterations done when this log opens.
    """

    def __init__(self, run: Path, start: int = 0) -> None:
        super().__init__()
        self.run, self.start = run, start
        self.jsonl, self.csv = run / "metrics.jsonl", run / "metrics.csv"
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.name

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the record of an iteration."""
        if self._columns is None:
            records = [r for r in read_metrics(self.run) if r["step"] <= self.start]
            self.jsonl.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
            self._write_table(records)
        record = {"step": step, **{k: round(v, 9) for k, v in metrics.items()}}
        with self.jsonl.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        if record.keys() <= set(self._columns or ()):
            with self.csv.open("a", newline="", encoding="utf-8") as table:
                csv.DictWriter(table, self._columns or []).writerow(record)
        else:
            self._write_table(read_metrics(self.run))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration lies beside the metrics."""

    def _write_table(self, records: list[dict[str, Any]]) -> None:
        self._columns = list(dict.fromkeys(key for record in records for key in record))
        with self.csv.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self._columns)
            table.writeheader()
            table.writerows(records)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Records of a run's `metrics.jsonl`, up to a line that was cut short or is damaged."""
    file = run / "metrics.jsonl"
    records = []
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        try:
            record = json.loads(line)
            record["step"] = int(record["step"])
        except (LookupError, RecursionError, TypeError, ValueError):
            break
        records.append(record)
    return records


def first_process() -> bool:
    """Whether this is the process that writes and speaks; of one, it is."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def require_loggers(config: TrainConfig) -> None:
    """Refuse a logger that is not installed.

    Raises:
        MissingExtra: names the command that installs it.
    """
    if "wandb" in config.loggers and find_spec("wandb") is None:
        raise MissingExtra(
            "Weights & Biases is not installed.", "Install it: pip install 'c2s[wandb]'"
        )


def create_loggers(config: TrainConfig, run: Path, start: int) -> list[Logger]:
    """The loggers of a run: its metrics files, and those that the configuration names.

    Weights & Biases obeys its own variables (WANDB_MODE=offline, WANDB_PROJECT, ...); a run that is
    resumed continues there under the id that it keeps in `wandb-id`.

    Args:
        config: resolved.
        run: run folder.
        start: iterations done so far.
    """
    loggers: list[Logger] = [MetricsLog(run, start)]
    if "tensorboard" in config.loggers:
        purge = start + 1 if start else None
        loggers.append(TensorBoardLogger(run, name="", version="tensorboard", purge_step=purge))
    if "wandb" in config.loggers:
        settings = config.model_dump(mode="json")
        project = os.environ.get("WANDB_PROJECT", "c2s")
        name, identity = config.run_name, _wandb_id(run / "wandb-id")
        loggers.append(WandbLogger(name, run, id=identity, project=project, config=settings))
    return loggers


def close_loggers(loggers: list[Logger]) -> None:
    """Let go of what is kept open across fits: a Weights & Biases run would take in the next one's."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _wandb_id(file: Path) -> str | None:
    if first_process() and not file.exists():
        file.write_text(uuid.uuid4().hex[:16], encoding="utf-8")
    return file.read_text(encoding="utf-8") if file.exists() else None
