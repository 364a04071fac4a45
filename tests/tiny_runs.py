"""Settings of runs of a few iterations on a tiny cache."""

from __future__ import annotations

from c2s.runs.config import load_config


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
