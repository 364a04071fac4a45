"""Invariant: a worker process computes in lanes of one thread each; its tasks only wait for them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch

from c2s_cache import ConfigError
from c2s_pipeline.extras import require

PROFILER = "distributed.worker.profile.enabled"
"""It looks at every thread a hundred times a second, holding the interpreter's lock."""
PRE_SPAWN = "distributed.nanny.pre-spawn-environ"
ENVIRONMENT = {
    **{"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)},
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
}
"""Environment of a worker process. Dask's own sets a trim threshold that keeps glibc from raising its mmap
threshold: every large tensor is then mapped and faulted in anew, which slows a small teacher down."""


@contextlib.contextmanager
def connect(scheduler: str | None, workers: int, device: str, blocks: int = 2) -> Iterator[Any]:
    """A client of the given scheduler, or of a local cluster that ends with the build.

    The local cluster has one process per worker, with one GPU each where there are GPUs; where there are fewer
    GPUs than workers, they share them.

    Args:
        scheduler: address of a running Dask scheduler, or None.
        workers: processes of the local cluster.
        device: "cuda" or "cpu".
        blocks: blocks that each local worker has under way at once.

    Raises:
        ConfigError: no scheduler answers at that address, or it has no workers.
    """
    distributed = require("distributed", "build")
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {scheduler}.",
                "Start one with: dask scheduler, and workers with: dask worker ADDRESS --nthreads 2",
            ) from error
        with client:
            if not client.ncores():
                raise ConfigError(
                    f"the Dask scheduler at {scheduler} has no workers.",
                    f"Start some with: dask worker {scheduler} --nthreads 2",
                )
            yield client
        return
    gpus = visible_gpus() if device == "cuda" else []

    class OnGPU(distributed.Nanny):  # type: ignore[misc, name-defined]
        """A worker process that sees one GPU, by its number."""

        def __init__(self, *args: Any, name: int, **options: Any) -> None:
            env = {"CUDA_VISIBLE_DEVICES": gpus[name % len(gpus)]}
            super().__init__(*args, name=name, env=env, **options)

    with contextlib.ExitStack() as stack:
        with (
            _uninterrupted(),
            require("dask", "build").config.set({PRE_SPAWN: ENVIRONMENT, PROFILER: False}),
        ):
            local = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    worker_class=OnGPU if gpus else None,
                    threads_per_worker=blocks,
                    memory_limit=0,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                )
            )
        yield stack.enter_context(distributed.Client(local))


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all: the builder ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
