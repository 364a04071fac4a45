"""Invariant: a worker process computes in lanes of one thread each; its tasks only wait for them."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

from c2s_cache import C2SError, ConfigError
from c2s_cache.semaphores import named
from c2s_pipeline.devices import visible_gpus
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


def require_scheduler(scheduler: str | None) -> None:
    """Make sure of a scheduler that is named, before anything is done for it and also if nothing is to be done.

    Raises:
        ConfigError: as for `connect`.
    """
    if scheduler is not None:
        with _client(scheduler):
            pass


@contextlib.contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """A client of a scheduler that runs elsewhere and has workers."""
    distributed = require("distributed", "build")
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
        C2SError: the processes of the local cluster do not start.
        KeyboardInterrupt: Ctrl-C while they started, once they have.
    """
    distributed = require("distributed", "build")
    if scheduler is not None:
        with _client(scheduler) as client:
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
            _later(),
            require("dask", "build").config.set({PRE_SPAWN: ENVIRONMENT, PROFILER: False}),
        ):
            before = named()
            local = stack.enter_context(
                _local_cluster(distributed, workers, OnGPU if gpus else None, blocks)
            )
            for key, remove in named().items():
                if key not in before:
                    remove()  # all workers have started
        yield stack.enter_context(distributed.Client(local))


def _local_cluster(distributed: Any, workers: int, kind: type | None, blocks: int) -> Any:
    try:
        return distributed.LocalCluster(
            n_workers=workers,
            worker_class=kind,
            threads_per_worker=blocks,
            host="127.0.0.1",
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    except Exception as error:  # Dask raises whatever its processes failed with
        reason = str(error).strip().splitlines()
        raise C2SError(
            f"the {workers} worker processes could not be started"
            f" ({reason[0] if reason else type(error).__name__}); one may have been killed, or run out of memory.",
            "Run the same command again to resume, with fewer --workers if it happens again.",
        ) from error


@contextlib.contextmanager
def _later() -> Iterator[None]:
    """Ctrl-C, which a terminal sends to all processes, is kept from those started here and acted upon by the
    builder when they have started: it ends them.

    They inherit the mask of the thread that starts them, which is one started here; a handler would not be."""
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    caught: list[int] = []
    resource_tracker.ensure_running()  # it would lift the mask
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt
