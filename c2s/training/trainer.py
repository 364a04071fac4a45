"""Lightning's trainer as a run wants it: our checkpoints, signals and processes, and no hints."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only

from c2s.runs.config import TrainConfig
from c2s.training import checkpoint_io
from c2s.training.ending import lost
from c2s.training.processes import SeveralProcesses, cluster_environment
from c2s_cache.errors import ConfigError


def on_gpu(config: TrainConfig) -> bool:
    """Whether a run computes on a GPU."""
    return config.accelerator != "cpu" and torch.cuda.is_available()


def make_trainer(config: TrainConfig, callbacks: list[pl.Callback], run: Path) -> pl.Trainer:
    """The trainer of a run in this folder.

    Raises:
        ConfigError: there is no such accelerator.
    """
    several = config.devices * config.nodes > 1
    try:
        trainer = pl.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=SeveralProcesses(partial(lost, run)) if several else "auto",
            sync_batchnorm=several and on_gpu(config),
            precision=config.precision,
            deterministic="warn" if config.deterministic else None,
            max_steps=config.total,
            accumulate_grad_batches=config.accumulate,
            callbacks=callbacks,
            plugins=[checkpoint_io.SafetensorsIO(), cluster_environment(config)],
            default_root_dir=run,
            logger=False,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except MisconfigurationException as error:
        raise ConfigError(f"accelerator={config.accelerator}: {error}") from error
    # Lightning's loggers go by this, which it has read from the environment where it is not told otherwise.
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]
    # Signals are taken by `StopRequest`, also in a job of SLURM.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def quiet() -> None:
    """Keep Lightning's hints (more workers, no validation loop, tips) off the user's terminal."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning")
