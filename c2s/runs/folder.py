"""Invariant: a run folder is self-contained: evaluation needs neither the cache nor CLIP.

`config.yaml` (resolved), `run.json` and `text.safetensors` (classes and their text embeddings, all
of them, for evaluation only), `frozen.safetensors` (what of the student never changes, if it has such),
`metrics.jsonl`, `metrics.csv`, `checkpoint/`, `halfway/`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from c2s.runs import continuation
from c2s.runs.checkpoint import CONFIG, FROZEN, RunError, State, anew, saved_step
from c2s.runs.config import TrainConfig, dump_yaml, load_config
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.runs.tensors import write_tensors
from c2s.students.base import Student
from c2s.students.registry import CodeError
from c2s.text import cached_text, sentences_of
from c2s_cache.errors import C2SError, ConfigError
from c2s_cache.fingerprint import file_digest
from c2s_cache.lock import LOCK, locked
from c2s_cache.manifest import TeacherInfo
from c2s_cache.ownership import Mark, NotOurs, contents
from c2s_cache.provenance import weights_location
from c2s_cache.reader import Cache
from c2s_cache.receipt import sync_directory, write_atomic

INFO, TEXT = "run.json", "text.safetensors"
RUN = Mark("a run", INFO, ("dataset", "classes", "fingerprints"))
RESOLVED = ("parts", "iterations", "warmup", "image_size", "name")
"""Settings that are never open in a run's own configuration."""


class RunInfo(BaseModel):
    """What a run was trained on. `teacher` and `fingerprints` are those of its cache; `teacher_weights` is where the
    teacher's weights were when that was built, as `--teacher-weights` names it (None: its name says).

    `templates` are the sentences and `prompts` the names in them that its class embeddings stand for;
    neither is known where they were imported. `architecture` is what the student says of itself beyond its
    name (`Student.architecture`). `text_digest` and `frozen_digest` are the SHA-256 of
    `text.safetensors` and `frozen.safetensors`; None where there is none, or in a run of an earlier version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    dataset: str
    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    view_size: int
    templates: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    teacher: TeacherInfo
    teacher_weights: str | None = None
    fingerprints: dict[str, str]
    architecture: dict[str, Any] | None = None
    text_digest: str | None = None
    frozen_digest: str | None = None
    versions: dict[str, str]


def create_run(config: TrainConfig, cache: Cache, student: Student) -> Path:
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
    templates, prompts = sentences_of(manifest)
    info = RunInfo(
        dataset=manifest.dataset,
        classes=manifest.classes,
        unseen=manifest.unseen,
        view_size=manifest.view_size,
        templates=templates,
        prompts=prompts,
        teacher=manifest.teacher,
        teacher_weights=weights_location(config.cache),
        fingerprints=manifest.fingerprints,
        architecture=None if student.architecture is None else dict(student.architecture),
        versions=_versions(),
    )
    try:
        _write_info(path, info)  # the mark comes first
        digests = {"text_digest": _write_text(path, cache)}
        if frozen := {
            k: v for k, v in student.state_dict().items() if k.startswith(student.frozen)
        }:
            write_tensors(path / FROZEN, frozen)
            digests["frozen_digest"] = file_digest(path / FROZEN)
        _write_info(path, info.model_copy(update=digests))
        write_config(path, config)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise RunError(
            f"The run folder {path} cannot be made ({error.strerror or error})."
        ) from error
    return path


def restore_text(path: Path, cache: Cache, info: RunInfo) -> None:
    """Write a run's text embeddings again, from the cache that it is trained from, if they are not as they were.

    Raises:
        RunError: they cannot be written.
    """
    file = path / TEXT
    if file.is_file() and file_digest(file) == info.text_digest:
        return
    try:
        _write_text(path, cache)
    except OSError as error:
        raise RunError(
            f"{file} cannot be restored ({error.strerror or error}).",
            f"Remove it, then go on: c2s train --resume {path}",
        ) from error


def _write_text(path: Path, cache: Cache) -> str:
    """Copy the text embeddings of all classes out of a cache; the SHA-256 of the file."""
    embeddings = torch.from_numpy(np.ascontiguousarray(cached_text(cache, "all").embeddings))
    write_tensors(path / TEXT, {"embeddings": embeddings})
    return file_digest(path / TEXT)


def _write_info(path: Path, info: RunInfo) -> None:
    write_sealed(path / INFO, info.model_dump(mode="json"))


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


def read_config(
    path: Path, settings: Sequence[str] = (), allow_code: bool = False, **options: Any
) -> TrainConfig:
    """Resolved configuration of a run.

    Args:
        path: the run folder.
        settings, options: what to change in it; see `load_config`.
        allow_code: the run may name a method that is code of one's own, which is then imported.

    Raises:
        RunError: `path` is no run folder, or its configuration is damaged.
        CodeError: it names such a method, not allowed.
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
    if not file.stat().st_size:
        raise RunError(f"{file} is empty.", anew(path, file))
    try:
        config = load_config(file, allow_code=allow_code)
    except CodeError:
        raise
    except (ConfigError, OSError, ValueError) as error:
        why = error.what if isinstance(error, C2SError) else str(error)
        why = why.replace(f"configuration file {file}", "it").replace(str(file), "it")
        raise RunError(f"{file} is damaged: {why}", anew(path, file)) from error
    unknown = [key for key in RESOLVED if getattr(config, key) is None]
    if unknown:
        raise RunError(
            f"{file} is not whole: it does not say {', '.join(unknown)}.", anew(path, file)
        )
    if settings or any(value is not None for value in options.values()):
        config = load_config(file, settings, None, allow_code, **options)
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
    file = path / INFO
    if not file.is_file():
        raise RunError(f"{file} is missing.", anew(path))
    try:
        return RunInfo.model_validate(read_sealed(file))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged or was edited.", anew(path)) from error


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
    return {entry.name for entry in path.iterdir()} <= {INFO, TEXT, CONFIG, FROZEN, LOCK}


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
