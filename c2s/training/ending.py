"""Invariant: however a training ends, its user reads one sentence and how the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from c2s.runs.checkpoint import RunError, saved_step
from c2s.runs.config import TrainConfig
from c2s.runs.continuation import listed
from c2s.runs.tensors import NotFinite
from c2s.training.processes import ProcessLost, is_lost
from c2s.training.schedule import lr_factor
from c2s_cache.errors import C2SError, ConfigError, memory_ran_out, sentences


def way_on(path: Path, error: C2SError | None = None) -> str:
    """The hint of an error that ended a training, and how the run goes on."""
    step = saved_step(path)
    hints = [] if error is None or error.hint is None else [error.hint]
    lower = isinstance(error, NotFinite)
    more = " --set lr=RATE with a lower rate, or --set precision=32-true" if lower else ""
    if not path.exists():
        hints.append(f"Nothing was saved: start the run again{' with' if lower else ''}{more}.")
    elif step is None:
        more = f" and{more}" if lower else ""
        hints.append(f"There is no checkpoint yet: start the run again with --overwrite{more}.")
    else:
        hints.append(
            f"The checkpoint of iteration {step} is kept. Continue with: c2s train --resume {path}{more}"
        )
    return sentences(*hints)


def stated(config: TrainConfig, step: int, changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """What a run that goes on with other settings does from now on."""
    if not changes:
        return []
    said = [f"From iteration {step} on: {listed(changes)}."]
    if "iterations" in changes:
        before, total = changes["iterations"]
        runs = (config.model_copy(update={"iterations": n}) for n in (before, total))
        first, then = (lr_factor(step, run) for run in runs)
        said.append(
            f"The learning rate follows the schedule of {total} iterations: it goes on at {then:.3g} of its "
            f"full value, where that of {before} had {first:.3g}."
        )
    return said


def lost(path: Path, what: str) -> ProcessLost:
    """The error of the processes that are left, when one of several has ended."""
    error = ProcessLost(f"The training cannot go on: {what}.")
    return ProcessLost(error.what, way_on(path, error))


@contextmanager
def spoken(path: Path, config: TrainConfig, several: bool) -> Iterator[None]:
    """Errors as the user is to read them, with how the run goes on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if several and is_lost(error):
            raise lost(path, "another process of it has ended") from error
        if "DataLoader worker" in str(error):
            killed = C2SError(
                f"A loader process was killed ({str(error).strip()}); memory may have run out.",
                "Take fewer --workers, or a smaller --set view_cache_gib=GiB.",
            )
            raise C2SError(killed.what, way_on(path, killed)) from error
        if (which := memory_ran_out(error)) is None:
            raise
        memory = C2SError(
            f"{which} ran out at batch size {config.batch_size} and {config.image_size} pixels.",
            "Take --set accumulate=2 (or 4, ...), precision=bf16-mixed or method.supervision=features.",
        )
        raise C2SError(memory.what, way_on(path, memory)) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        images = config.batch_size // (config.devices * config.nodes * config.accumulate)
        alone = ConfigError(
            f"{config.student} takes statistics over a batch, and a batch of {images} of {config.image_size} pixels "
            "leaves one value to a channel.",
            "Take --batch-size 2 or more for each process and micro-batch, or larger images.",
        )
        raise ConfigError(alone.what, way_on(path, alone)) from error
    except OSError as error:
        raise C2SError(f"Training has stopped: {error}.", way_on(path)) from error
    except RunError:  # no checkpoint of this run, so none to go on from
        raise
    except C2SError as error:
        raise type(error)(error.what, way_on(path, error)) from error
