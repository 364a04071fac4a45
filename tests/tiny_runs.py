"""Settings of runs of a few iterations on a tiny cache, for Python and for the command line."""

from __future__ import annotations

from c2s.runs.config import load_config

FAST = ("--student", "segformer-b0", "--iterations", "2", "--batch-size", "2", "--workers", "0")
"""Options of a training that takes seconds."""

STEPS = 5
"""Of the finished run."""


def settings(cache, runs, defaults=None, **more):
    """A run on the CPU without loader processes or loggers, in the folder `runs`; `more` overrides."""
    options = {
        "cache": cache,
        "student": "segformer-b0",
        "batch_size": 4,
        "workers": 0,
        "log_every": 1,
        "accelerator": "cpu",
        "runs": runs,
        "loggers": (),
    }
    return load_config(defaults=defaults, **(options | more))


def stepwise(cache, folder, **more):
    """Settings of a run in `folder`/runs that saves a checkpoint of every other step."""
    options = {"iterations": STEPS, "checkpoint_every": 2}
    return settings(cache, folder / "runs", **(options | more))
