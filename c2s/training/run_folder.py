"""Invariant: a run folder is self-contained: evaluation needs neither the cache nor CLIP.

`config.yaml` (resolved), `run.json` and `text.safetensors` (classes and their text embeddings, all
of them, for evaluation only), `metrics.jsonl`, `metrics.csv`, `checkpoint/`, `halfway/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from c2s.students import create
from c2s.training.config import TrainConfig, dump_yaml, load_config
from c2s_cache.errors import C2SError
from c2s_cache.reader import Cache
from c2s_cache.receipt import write_atomic

HALFWAY = "halfway/student.safetensors"
"""Student of an inductive run at half its schedule, from which self-training starts."""


class RunError(C2SError):
    """A run folder is missing, damaged, unfinished, or in the way."""


class RunInfo(BaseModel):
    """What a run was trained on. `teacher` and `fingerprints` are those of its cache.

    `templates` are the sentences and `prompts` the names in them that its class embeddings stand for;
    neither is known where they were imported. `architecture` is what the student says of itself beyond its
    name (`Student.architecture`).
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
    versions: dict[str, str]


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


def create_run(
    config: TrainConfig, cache: Cache, student: nn.Module, overwrite: bool = False
) -> Path:
    """Lay out the folder of a new run.

    Args:
        config: resolved.
        cache: the cache it trains from; classes and text embeddings are copied out of it.
        student: the student to train; what its name leaves open is kept.
        overwrite: delete a folder of that name.

    Raises:
        RunError: a folder of that name exists.
    """
    path = config.runs / config.run_name
    if path.exists() and not overwrite:
        step = saved_step(path)
        if step is not None and step < config.total:
            hint = f"Continue it with: c2s train --resume {path}"
        else:
            hint = "Choose another --name, or replace it with --overwrite."
        raise RunError(f"{path} already holds a run.", hint)
    try:
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"The run folder {path} cannot be made ({error.strerror}).") from error
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
    save_file({"embeddings": embeddings}, path / "text.safetensors")
    write_atomic(path / "run.json", (info.model_dump_json(indent=2) + "\n").encode())
    write_atomic(path / "config.yaml", dump_yaml(config).encode())
    return path


def read_config(path: Path) -> TrainConfig:
    """Resolved configuration of a run.

    Raises:
        RunError: `path` is no run folder, or its configuration is damaged.
    """
    file = path / "config.yaml"
    if not file.is_file():
        raise RunError(
            f"{path} is not a run folder (no config.yaml).", "Train one: c2s train --cache PATH"
        )
    return load_config(file)


def read_info(path: Path) -> RunInfo:
    """Contents of `run.json`.

    Raises:
        RunError: missing or damaged.
    """
    try:
        return RunInfo.model_validate_json((path / "run.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(
            f"{path / 'run.json'} is missing or damaged.", "Train the run again."
        ) from error


def open_run(path: Path | str) -> Run:
    """Open a run for inference.

    Raises:
        RunError: no run there, or no checkpoint yet, or its weights do not fit its
        configuration.
    """
    path = Path(path)
    config, info = read_config(path), read_info(path)
    step = saved_step(path)
    if step is None:
        raise RunError(
            f"{path} has no checkpoint yet.", f"Start it anew with: --name {path.name} --overwrite"
        )
    folder = checkpoint_folder(path)
    embeddings = load_tensors(path / "text.safetensors")["embeddings"]
    # The weights are all in the checkpoint; the pretrained ones need not exist here.
    student = create(config.student, embeddings.shape[1], "random", info.architecture)
    load_weights(
        student, load_tensors(folder / "student.safetensors"), folder / "student.safetensors"
    )
    return Run(path, config, info, step, embeddings.numpy(), student.eval())


def checkpoint_folder(path: Path) -> Path:
    """Folder of the newest whole checkpoint; a swap cut short leaves it under another name."""
    for name in ("checkpoint", "checkpoint.new", "checkpoint.old"):
        if (path / name / "state.json").is_file():
            return path / name
    return path / "checkpoint"


def saved_step(path: Path) -> int | None:
    """Iterations that the run's checkpoint has seen; None without a checkpoint."""
    try:
        return int(json.loads((checkpoint_folder(path) / "state.json").read_bytes())["step"])
    except (OSError, ValueError, KeyError):
        return None


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        RunError: missing or damaged.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
        return tensors
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{file} is missing or damaged ({error}).", "Train the run again."
        ) from error


def load_weights(module: nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Fill a module, every parameter and persistent buffer.

    Raises:
        RunError: names or shapes differ.
    """
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise RunError(
            f"{source} does not fit the {type(module).__name__} of its configuration: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "pytorch-lightning", "numpy", "safetensors")}
