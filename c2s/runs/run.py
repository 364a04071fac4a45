"""Invariant: what a run predicts with is what it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from c2s.plain_torch import plain_torch
from c2s.runs.checkpoint import (
    STUDENT,
    RunError,
    anew,
    checkpoint_folder,
    load_student,
    load_tensors,
    load_weights,
    read_state,
)
from c2s.runs.config import TrainConfig
from c2s.runs.folder import TEXT, RunInfo, continued, read_config, read_info
from c2s.students import create
from c2s.students.base import Student
from c2s.students.registry import require_no_code
from c2s.vocabulary import Vocabulary


@dataclass(frozen=True)
class Run:
    """A trained run, opened for inference.

    Attributes:
        path: its folder.
        config: resolved configuration.
        info: dataset, classes, teacher.
        step: iterations the checkpoint has seen.
        complete: whether nothing is left to train.
        embeddings: float32 [N, D], text embeddings of all classes, unit norm.
        student: the student with its trained weights, in evaluation mode.
    """

    path: Path
    config: TrainConfig
    info: RunInfo
    step: int
    complete: bool
    embeddings: NDArray[np.float32]
    student: Student

    @property
    def seen_offset(self) -> float:
        """What the method's test protocol takes off the scores of seen classes."""
        return 0.0 if self.config.self_train is not None else self.config.method.seen_offset

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes of its own data set."""
        names = tuple((name,) for name in self.info.prompts)
        return Vocabulary(self.info.classes, self.embeddings, self.info.unseen, names)


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
    config, info, state = (
        read_config(path, allow_code=allow_code),
        read_info(path),
        read_state(path),
    )
    continued(path, config, state)
    require_no_code(config.student, path, allow_code)
    restore = f"Restore it from the cache: c2s train --resume {path}"
    texts = load_tensors(path, path / TEXT, info.text_digest, restore)
    file = checkpoint_folder(path) / STUDENT
    embeddings = texts.get("embeddings", torch.empty(0))
    rows = len(info.classes)
    if embeddings.ndim != 2 or len(embeddings) != rows or embeddings.dtype != torch.float32:
        raise RunError(
            f"{path / TEXT} holds text embeddings {embeddings.dtype} {list(embeddings.shape)}, expected "
            f"torch.float32 [{rows}, D].",
            anew(path),
        )
    # The weights are all in the checkpoint; the pretrained ones need not exist here.
    student = create(config.student, embeddings.shape[1], "random", info.architecture)
    load_weights(
        student, load_student(path, file, state.files.get(STUDENT), info.frozen_digest), path, file
    )
    complete = state.complete or state.step >= config.total
    return Run(path, config, info, state.step, complete, embeddings.numpy(), student.eval())
