"""Invariant: a run folder is self-contained: evaluation needs neither the cache nor CLIP.

`config.yaml` (resolved), `run.json` and `text.safetensors` (classes and their text embeddings, all
of them, for evaluation only), `metrics.jsonl`, `metrics.csv`, `checkpoint/`, `halfway/`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from c2s.plain_torch import plain_torch
from c2s.students import create
from c2s.students.registry import require_no_code
from c2s.training import continuation
from c2s.training.config import TrainConfig, dump_yaml, load_config
from c2s.training.tensors import difference, require_finite, write_tensors
from c2s_cache.errors import C2SError, ConfigError
from c2s_cache.fingerprint import file_digest
from c2s_cache.lock import LOCK, locked
from c2s_cache.ownership import Mark, NotOurs, contents
from c2s_cache.reader import Cache
from c2s_cache.receipt import sync_directory, write_atomic

HALFWAY = "halfway/student.safetensors"
"""Student of an inductive run at half its schedule, from which self-training starts."""


CONFIG, INFO, TEXT = "config.yaml", "run.json", "text.safetensors"
RUN = Mark("a run", INFO, ("dataset", "classes", "fingerprints"))
STATE, STUDENT = "state.json", "student.safetensors"
RESOLVED = ("iterations", "warmup", "image_size", "name")
"""Settings that are never open in a run's own configuration."""


class RunError(C2SError):
    """A run folder is missing, damaged, unfinished, or in the way."""


class RunInfo(BaseModel):
    """What a run was trained on. `teacher` and `fingerprints` are those of its cache.

    `templates` are the sentences and `prompts` the names in them that its class embeddings stand for;
    neither is known where they were imported. `architecture` is what the student says of itself beyond its
    name (`Student.architecture`). `text_digest` is the SHA-256 of `text.safetensors`; None in a run of an
    earlier version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    dataset: str
    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    view_size: int
    templates: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    teacher: dict[str, Any]
    fingerprints: dict[str, str]
    architecture: dict[str, Any] | None = None
    text_digest: str | None = None
    versions: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> RunInfo:
        if not {"name", "pretrained", "digest"} <= self.teacher.keys():
            raise ValueError("the teacher has no name, weights or digest")
        return self


class State(BaseModel):
    """Contents of a checkpoint's `state.json`.

    Attributes:
        format: of the checkpoint.
        step: iterations it has seen.
        complete: whether nothing is left to train.
        student: what the names of the student's tensors begin with in Lightning's own checkpoint.
        config: the settings that it was trained with, as JSON values; None where no run saved it.
        files: SHA-256 of its files of tensors, by name; empty in a checkpoint of an earlier version.
        checkpoint: Lightning's own, without its tensors.
    """

    model_config = ConfigDict(frozen=True)

    format: int
    step: int = Field(ge=0)
    complete: bool = False
    student: str = ""
    config: dict[str, Any] | None = None
    files: dict[str, str] = {}
    checkpoint: dict[str, Any] = {}


@dataclass(frozen=True)
class Run:
    """A trained run, opened for inference.

    Attributes:
        path: its folder.
        config: resolved configuration.
        info: dataset, classes, teacher.
        step: iterations the checkpoint has seen.
        embeddings: float32 [N, D], text embeddings of all classes, unit norm.
        student: the student with its trained weights, in evaluation mode.
    """

    path: Path
    config: TrainConfig
    info: RunInfo
    step: int
    embeddings: NDArray[np.float32]
    student: nn.Module


def create_run(config: TrainConfig, cache: Cache, student: nn.Module) -> Path:
    """Lay out the folder of a new run, which is ours alone (see `owned`).

    Args:
        config: resolved.
        cache: the cache it trains from; classes and text embeddings are copied out of it.
        student: the student to train; what its name leaves open is kept.

    Raises:
        RunError: it cannot be written.
    """
    path = config.runs / config.run_name
    manifest = cache.manifest
    text = manifest.requests["text"]
    info = RunInfo(
        dataset=manifest.dataset,
        classes=manifest.classes,
        unseen=manifest.unseen,
        view_size=manifest.view_size,
        templates=tuple(text.get("templates", ())),
        prompts=tuple(text["names"]) if "templates" in text else (),
        teacher=manifest.teacher.model_dump(mode="json"),
        fingerprints=manifest.fingerprints,
        architecture=getattr(student, "architecture", None),
        versions=_versions(),
    )
    embeddings = torch.from_numpy(np.ascontiguousarray(cache.text("all").embeddings))
    try:
        _write_info(path, info)  # the mark comes first
        write_tensors(path / TEXT, {"embeddings": embeddings})
        _write_info(path, info.model_copy(update={"text_digest": file_digest(path / TEXT)}))
        write_config(path, config)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise RunError(
            f"The run folder {path} cannot be made ({error.strerror or error})."
        ) from error
    return path


def _write_info(path: Path, info: RunInfo) -> None:
    write_atomic(path / INFO, (info.model_dump_json(indent=2) + "\n").encode())


@contextmanager
def owned(config: TrainConfig, overwrite: bool = False, new: bool = True) -> Iterator[None]:
    """Hold the exclusive right to train into a run's folder, by whatever path it was named.

    Args:
        config: resolved; says which folder.
        overwrite: remove a run that is there.
        new: the folder is to be made.

    Raises:
        RunError: another process trains there, or a run is there that is not to be removed.
        NotOurs: what is there is no run.
    """
    path = config.runs / config.run_name
    try:
        if new:
            _make_room(path, config, overwrite)
            _make_durable(path)
    except OSError as error:
        raise RunError(
            f"The run folder {path} cannot be made ({error.strerror or error})."
        ) from error
    with _locked(path):
        yield


def read_config(path: Path, settings: Sequence[str] = (), **options: Any) -> TrainConfig:
    """Resolved configuration of a run.

    Args:
        path: the run folder.
        settings, options: what to change in it; see `load_config`.

    Raises:
        RunError: `path` is no run folder, or its configuration is damaged.
        ConfigError: a change is not valid.
    """
    file = path / CONFIG
    if not file.is_file() and (path / "config.json").is_file():
        raise RunError(
            f"{path} is a folded model, not a run: its classes are in its weights.",
            f"Segment with it: c2s predict IMAGES --run {path} --out DIR. To score it: c2s eval --run RUN "
            "--folded, with the run that it was folded from.",
        )
    if not file.is_file():
        raise RunError(
            f"{path} is not a run folder (no config.yaml).", "Train one: c2s train --cache PATH"
        )
    try:
        config = load_config(file)
    except (ConfigError, OSError, ValueError) as error:
        raise RunError(
            f"{file} is damaged: {error.what if isinstance(error, C2SError) else error}",
            "Train the run again.",
        ) from error
    unknown = [key for key in RESOLVED if getattr(config, key) is None]
    if unknown:
        raise RunError(
            f"{file} is not whole: it does not say {', '.join(unknown)}.", "Train the run again."
        )
    if settings or any(value is not None for value in options.values()):
        config = load_config(file, settings, None, **options)
    return config.model_copy(update={"runs": path.parent, "name": path.name})


def write_config(path: Path, config: TrainConfig) -> None:
    """Store the configuration of a run, if it is not stored yet."""
    content = dump_yaml(config).encode()
    if not (path / CONFIG).is_file() or (path / CONFIG).read_bytes() != content:
        write_atomic(path / CONFIG, content)


def continued(path: Path, config: TrainConfig, state: State) -> dict[str, tuple[Any, Any]]:
    """What a configuration changes of that with which a checkpoint was trained, by dotted name.

    Raises:
        RunError: it changes more than may be changed; the message shows what.
    """
    changes = continuation.differences(state.config or {}, config.model_dump(mode="json"))
    wrong = continuation.refused(changes)
    if wrong:
        raise RunError(
            f"{path} was trained with other settings: "
            f"{continuation.listed({key: changes[key] for key in wrong})}.",
            f"Put them back (in {path / CONFIG}, or on the command line), or train a new run with them under "
            "another --name. What may change: more iterations, lr, precision, and what decides nothing of what is "
            "learnt.",
        )
    return changes


def read_info(path: Path) -> RunInfo:
    """Contents of `run.json`.

    Raises:
        RunError: missing or damaged.
    """
    try:
        return RunInfo.model_validate_json((path / INFO).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"{path / INFO} is missing or damaged.", "Train the run again.") from error


@plain_torch()
def open_run(path: Path | str, allow_code: bool = False) -> Run:
    """Open a run for inference.

    Args:
        path: its folder.
        allow_code: a `python:` student may be imported and called.

    Raises:
        CodeError: the student is one, and this is not allowed.
        RunError: no run there, or no checkpoint yet, or it is damaged, or its settings are not those
            that it was trained with.
        NotFinite: its weights are not finite.
    """
    path = Path(path)
    config, info, state = read_config(path), read_info(path), read_state(path)
    continued(path, config, state)
    require_no_code(config.student, path, allow_code)
    texts = load_tensors(path / TEXT, info.text_digest)
    file = checkpoint_folder(path) / STUDENT
    embeddings = texts.get("embeddings", torch.empty(0))
    rows = len(info.classes)
    if embeddings.ndim != 2 or len(embeddings) != rows or embeddings.dtype != torch.float32:
        raise RunError(
            f"{path / TEXT} holds text embeddings {embeddings.dtype} {list(embeddings.shape)}, expected "
            f"torch.float32 [{rows}, D].",
            "Train the run again.",
        )
    # The weights are all in the checkpoint; the pretrained ones need not exist here.
    student = create(config.student, embeddings.shape[1], "random", info.architecture)
    load_weights(student, load_tensors(file, state.files.get(STUDENT)), file)
    return Run(path, config, info, state.step, embeddings.numpy(), student.eval())


def checkpoint_folder(path: Path) -> Path:
    """Folder of the newest whole checkpoint; a swap cut short leaves it under another name."""
    for name in ("checkpoint", "checkpoint.new", "checkpoint.old"):
        if (path / name / STATE).is_file():
            return path / name
    return path / "checkpoint"


def read_state(path: Path) -> State:
    """State of a run's checkpoint.

    Raises:
        RunError: there is none, or it is damaged.
    """
    file = checkpoint_folder(path) / STATE
    try:
        return State.model_validate(json.loads(file.read_bytes()))  # json's floats are exact
    except FileNotFoundError as error:
        raise RunError(
            f"{path} has no checkpoint yet.", f"Start it anew with: --name {path.name} --overwrite"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged.", "Train the run again.") from error


def saved_step(path: Path) -> int | None:
    """Iterations that the run's checkpoint has seen; None without a checkpoint."""
    try:
        return read_state(path).step
    except RunError:
        return None


def load_tensors(file: Path, digest: str | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Args:
        file: the file.
        digest: its SHA-256 when it was written, if that is known.

    Raises:
        RunError: missing, damaged, or another file.
        NotFinite: a value is nan or infinite.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{file} is missing or damaged ({error}).", "Train the run again."
        ) from error
    require_finite(tensors, str(file), "Train the run again, with a lower lr or precision=32-true.")
    if digest not in (None, file_digest(file)):
        raise RunError(f"{file} is not the file that was saved.", "Train the run again.")
    return tensors


def load_weights(module: nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Fill a module, every parameter and persistent buffer.

    Raises:
        RunError: names or shapes differ.
    """
    wrong = difference(module.state_dict(), state)
    if wrong is not None:
        raise RunError(
            f"{source} does not fit the {type(module).__name__} of its configuration: {wrong}.",
            "Train the run again.",
        )
    module.load_state_dict(dict(state))


def _make_room(path: Path, config: TrainConfig, overwrite: bool) -> None:
    """Remove a run that is to be replaced, or of which nothing was trained, and no other folder.

    Raises:
        RunError: it is not to be replaced, or another process is training it.
        NotOurs: it is no run.
    """
    if not os.path.lexists(path):
        return
    if path.is_dir() and all(entry.name == LOCK for entry in path.iterdir()):
        return
    if not RUN.on(path):
        raise NotOurs(
            f"{path} is no run, and is left as it is: {contents(path)}.", "Choose another --name."
        )
    if not overwrite and not _untrained(path):
        step = saved_step(path)
        if step is not None and step < config.total:
            hint = f"Continue it with: c2s train --resume {path}"
        else:
            hint = "Choose another --name, or replace it with --overwrite."
        raise RunError(f"{path} already holds a run.", hint)
    for source in (config.cache, config.self_train):
        if source is not None and path.resolve() in (
            (at := Path(source).resolve()),
            *at.parents,
        ):
            raise RunError(
                f"{path} holds {source}, from which it would be trained.", "Choose another --name."
            )
    with _locked(path):
        RUN.remove(path)


def _untrained(path: Path) -> bool:
    """Whether a run was killed before its first iteration left anything."""
    return {entry.name for entry in path.iterdir()} <= {INFO, TEXT, CONFIG, LOCK}


def _locked(path: Path) -> AbstractContextManager[None]:
    busy = RunError(
        f"Another process is training {path}.", "Wait for it, or choose another --name."
    )
    return locked(path / LOCK, busy, required=False)


def _make_durable(path: Path) -> None:
    """Make a folder and those above it that are missing."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_directory(folder.parent)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "pytorch-lightning", "numpy", "safetensors")}
