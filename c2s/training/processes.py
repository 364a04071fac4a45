"""Invariant: how many processes a run has is what its configuration says; the environment only says which
of several this is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed import DistError

from c2s.runs.config import TrainConfig
from c2s.training.signals import deaf
from c2s_cache.errors import C2SError, ConfigError

GRACE = 10.0
"""Seconds in which a process notices by itself that another one is gone, as gloo does at once; with NCCL it
would wait for many minutes."""


STARTER = "C2S_STARTER"
"""Variable of the environment: the process that has started the others of its machine."""


class ProcessLost(C2SError):
    """One of several training processes has ended; the others cannot go on."""


def is_helper() -> bool:
    """Whether the process that has started this one is there; it then speaks for both."""
    return os.environ.get(STARTER) == str(os.getppid())


def is_lost(error: Exception) -> bool:
    """Whether an error of one process says that it has lost another: gloo's have no class of their own."""
    return isinstance(error, DistError) or "gloo" in str(error).lower()


class OneProcess(LightningEnvironment):
    """Of a run of one process, whatever a launcher around it has put into the environment."""

    creates_processes_externally = False

    def local_rank(self) -> int:
        """The only one."""
        return 0

    def node_rank(self) -> int:
        """The only one."""
        return 0

    def teardown(self) -> None:
        """Leave the environment as it is; Lightning's own takes WORLD_SIZE away."""


class Slurm(SLURMEnvironment):
    """Tasks started by srun. What a signal means is for the training to say, not for Lightning, which would
    save into the working directory and requeue the job; and `srun -n` is as good as --ntasks-per-node."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_variables() -> None:
        pass


def first_process(config: TrainConfig) -> bool:
    """Whether this is the process that writes and speaks; of one, it is."""
    return config.devices * config.nodes == 1 or int(getattr(rank_zero_only, "rank", 0)) == 0


def cluster_environment(config: TrainConfig) -> ClusterEnvironment:
    """Who starts the processes of a run.

    Raises:
        ConfigError: what the launcher says of its processes does not fit `devices` and `nodes`, or there
            is none where one is needed.
    """
    asked = config.devices * config.nodes
    if asked == 1:
        return OneProcess()
    setting = f"devices={config.devices} nodes={config.nodes}"
    try:
        environment = _launcher()
        environment.validate_settings(config.devices, config.nodes)
        if type(environment) is LightningEnvironment:
            _check_own(config)
        elif environment.world_size() != asked:
            raise ValueError(f"it has started {environment.world_size()} processes")
        port = environment.main_port
        ranks = environment.local_rank(), environment.node_rank()
        if not (0 < port < 2**16 and ranks[0] < config.devices and ranks[1] < config.nodes):
            raise ValueError(f"port {port}, process {ranks[0]} of node {ranks[1]}")
    except (ValueError, KeyError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{setting} is {asked} processes, which does not fit what the environment says: {reason}.",
            "Start one process per device with torchrun or srun, or unset the launcher's variables.",
        ) from error
    return environment


def _launcher() -> ClusterEnvironment:
    # Lightning's own order: torchrun may well run inside a job of SLURM.
    for kind, found in (
        (TorchElasticEnvironment, TorchElasticEnvironment),
        (SLURMEnvironment, Slurm),
        (LSFEnvironment, LSFEnvironment),
        (MPIEnvironment, MPIEnvironment),
    ):
        if kind.detect():
            return found()
    return LightningEnvironment()


def _check_own(config: TrainConfig) -> None:
    """Without a launcher this process starts those of its node; several nodes have to know each other."""
    if "LOCAL_RANK" in os.environ:  # or somebody has started it by hand
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ[name]
        return
    if config.nodes > 1 and not (
        {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
        and {"NODE_RANK", "GROUP_RANK"} & os.environ.keys()
    ):
        raise ConfigError(
            f"nodes={config.nodes} needs a launcher, and there is none.",
            "Start it with torchrun or srun, or on every node with MASTER_ADDR, MASTER_PORT and NODE_RANK "
            "in its environment.",
        )
    import __main__

    again = getattr(__main__, "__spec__", None) is not None or Path(sys.argv[0]).is_file()
    if config.devices > 1 and not again:
        raise ConfigError(
            f"devices={config.devices} starts this program once more for every further process, which a "
            "program from standard input or -c cannot be.",
            "Write it to a file, or start it with torchrun.",
        )


class SeveralProcesses(DDPStrategy):
    """Lightning's DDP, with a sentence in place of silence when one of the processes ends.

    Args:
        lost: what to say then, given what has ended.
    """

    def __init__(self, lost: Callable[[str], ProcessLost]) -> None:
        # A batch without any latent class leaves the latent embedding's parameters unused.
        super().__init__(find_unused_parameters=True)
        self._lost = lost

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(
            self._lost, self.cluster_environment, self.num_processes, self.num_nodes
        )


class _Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine, and watches them; they watch the one that started them."""

    def __init__(self, lost: Callable[[str], ProcessLost], *args: Any) -> None:
        super().__init__(*args)
        self._lost, self._done = lost, threading.Event()
        self._children: list[subprocess.Popen[bytes]] = []

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        """See Lightning's."""
        threading.Thread(target=self._watch, args=(is_helper(),), daemon=True).start()
        try:
            result = super().launch(function, *args, trainer=trainer, **kwargs)
        except BaseException:
            self._end(0.0)
            raise
        self._end(GRACE)
        return result

    def _call_children_scripts(self) -> None:
        os.environ[STARTER] = str(os.getpid())
        with deaf():  # until they listen for themselves
            super()._call_children_scripts()
        # Lightning's own watch, which would end this process by SIGKILL, is left with none.
        self._children, self.procs = self.procs, []

    def _watch(self, helper: bool) -> None:
        while (gone := self._gone(helper)) is None:
            if self._done.wait(0.5):
                return
        if not self._done.wait(GRACE):
            print(f"error: {self._lost(gone)}", file=sys.stderr, flush=True)
            for child in self._children:
                child.kill()
            os._exit(1)

    def _gone(self, helper: bool) -> str | None:
        if helper and not is_helper():
            return "the first process has ended"
        for rank, child in enumerate(self._children, start=1):
            if child.poll():
                return f"process {rank} has ended (exit code {child.returncode})"
        return None

    def _end(self, seconds: float) -> None:
        self._done.set()
        for child in self._children:
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
