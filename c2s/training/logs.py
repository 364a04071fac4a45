"""Invariant: a metrics file has the records of a run in order, also across resumes."""

from __future__ import annotations

import csv
import errno
import json
import os
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from c2s.runs.config import TrainConfig
from c2s_cache.errors import C2SError, ConfigError, MissingExtra


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

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the record of an iteration."""
        if self._columns is None:
            for file in (self.jsonl, self.csv):
                if file.exists() and not file.is_file():  # a pipe would wait for a reader
                    raise OSError(errno.EINVAL, "no regular file", str(file))
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


def require_loggers(config: TrainConfig) -> None:
    """Refuse a logger that is not installed, or not logged in.

    Raises:
        MissingExtra: names the command that installs it.
        ConfigError: names the command that logs in.
    """
    if "wandb" not in config.loggers:
        return
    if find_spec("wandb") is None:
        raise MissingExtra(
            "Weights & Biases is not installed.", "Install it: pip install 'c2s[wandb]'"
        )
    import wandb

    local = os.environ.get("WANDB_MODE", "online") != "online"
    if not (local or wandb.login(prompt=False)):
        raise ConfigError(
            "loggers=[wandb]: nobody is logged in to Weights & Biases.",
            "Log in with: wandb login; or set WANDB_MODE=offline.",
        )


def create_loggers(config: TrainConfig, run: Path, start: int) -> list[Logger]:
    """The loggers of a run: its metrics files, and those that the configuration names.

    Weights & Biases obeys its own variables (WANDB_MODE=offline, WANDB_PROJECT, ...); a run that is
    resumed continues there under the id that it keeps in `wandb-id`.

    Args:
        config: resolved.
        run: run folder.
        start: iterations done so far.

    Raises:
        C2SError: Weights & Biases refuses the run.
    """
    loggers: list[Logger] = [MetricsLog(run, start)]
    if "tensorboard" in config.loggers:
        purge = start + 1 if start else None
        loggers.append(TensorBoardLogger(run, name="", version="tensorboard", purge_step=purge))
    if "wandb" in config.loggers:
        settings = config.model_dump(mode="json")
        project = os.environ.get("WANDB_PROJECT", "c2s")
        name, identity = config.run_name, _wandb_id(run / "wandb-id")
        logger = WandbLogger(name, run, id=identity, project=project, config=settings)
        try:
            _ = logger.experiment
        except Exception as error:  # its errors have no class in common
            raise C2SError(
                f"Weights & Biases does not begin the run: {error}.", "Or set WANDB_MODE=offline."
            ) from error
        loggers.append(logger)
    return loggers


def close_loggers(loggers: list[Logger]) -> None:
    """Let go of what is kept open across fits: a Weights & Biases run would take in the next one's."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _wandb_id(file: Path) -> str:
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:16], encoding="utf-8")
    return file.read_text(encoding="utf-8")
