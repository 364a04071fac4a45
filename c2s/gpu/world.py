"""What a step is given: where it runs, how large, and the means to run commands of c2s."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
FILE = "world.json"
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""Environment of a command that is to run on the CPU."""


class Failed(Exception):
    """The step shows something that must not be; the message is its sentence."""

    def __init__(self, sentence: str, figures: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.figures = dict(figures or {})


class Skipped(Exception):
    """The step means nothing on this machine; the message says why."""

    def __init__(self, sentence: str, figures: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.figures = dict(figures or {})


@dataclass(frozen=True)
class Command:
    """What a command of c2s did: its exit code, what it printed, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def last(self) -> str:
        """The last line that it wrote to stderr."""
        return (self.err.strip().splitlines() or ["(nothing on stderr)"])[-1]


@dataclass(frozen=True)
class World:
    """Where steps run.

    Attributes:
        folder: for what they write; kept from one `make gpu` to the next.
        device: "cuda", or "cpu" where there is no GPU.
        small: sizes for a rehearsal on a CPU.
        report: gpu.json as it is so far.
    """

    folder: Path
    device: str
    small: bool
    report: Path

    def size(self, small: T, full: T) -> T:
        """The size for a rehearsal, or the real one."""
        return small if self.small else full

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"

    def place(self, name: str) -> Path:
        """A path below the folder that nothing lies at."""
        import shutil

        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def once(self, name: str) -> Iterator[Path]:
        """A path below the folder that several steps share, and only one makes at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.folder / name

    def start(self, *arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen:  # type: ignore[type-arg]
        """Start `c2s ARGUMENTS` in a process of this step."""
        command = [str(Path(sys.executable).parent / "c2s"), *map(str, arguments)]
        print("$", *(f"{k}={v}" for k, v in (env or {}).items()), *command, flush=True)
        return subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen) -> Command:  # type: ignore[type-arg]
        """Wait for a started command; what it prints goes into the log as well."""
        began = time.monotonic()
        out, err = process.communicate()
        print(out, err, sep="\n", flush=True)
        return Command(process.returncode, out, err, round(time.monotonic() - began, 2))

    def command(self, *arguments: object, env: Mapping[str, str] | None = None) -> Command:
        """Run `c2s ARGUMENTS` in a process of its own, whatever comes of it."""
        return self.finish(self.start(*arguments, env=env))

    def run(self, *arguments: object, env: Mapping[str, str] | None = None) -> Command:
        """The same, where it must succeed.

        Raises:
            Failed: it did not.
        """
        done = self.command(*arguments, env=env)
        if done.code:
            named = " ".join(map(str, arguments[:2]))
            raise Failed(f"c2s {named} ended with code {done.code}: {done.last}")
        return done

    def here(self, *arguments: object) -> str:
        """Run `c2s ARGUMENTS` in this process, which saves starting one; returns its stdout."""
        from c2s.cli import app

        print("$ c2s", *arguments, flush=True)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            app([str(a) for a in arguments], standalone_mode=False)
        print(out.getvalue(), flush=True)
        return out.getvalue()

    def figures(self, step: str) -> dict[str, Any]:
        """Figures of an earlier step, of this call or one before; empty if there are none."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            found: dict[str, Any] = json.loads(self.report.read_text(encoding="utf-8"))["steps"][
                step
            ]["figures"]
            return found
        return {}

    def card_memory(self) -> dict[str, float]:
        """Largest GPU memory, in MiB, that tensors of this process took."""
        import torch

        if not self.on_gpu or torch.cuda.max_memory_allocated() == 0:
            return {}
        return {"gpu_peak_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1)}


def write_world(world: World) -> None:
    """Note it for the processes of the steps."""
    world.folder.mkdir(parents=True, exist_ok=True)
    facts = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(world).items()}
    (world.folder / FILE).write_text(json.dumps(facts), encoding="utf-8")


def open_world(folder: Path) -> World:
    """The world of a folder."""
    facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return World(folder, facts["device"], facts["small"], Path(facts["report"]))
