"""What a student costs, counted without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from c2s.config import gathered, resolve
from c2s.methods.base import Facts, MethodConfig
from c2s.methods.registry import METHODS, method_class
from c2s.students.base import FeatureStudent, Student, parameter_count
from c2s.students.registry import NAMES, create
from c2s.students.segnext import Factorisation
from c2s.vocabulary import Vocabulary
from c2s_cache.errors import ConfigError

HEADS = 8
"""Attention heads of the latent embeddings' decoder layer."""
CLASSES, MOST = 20, 32_767
"""That a student is asked for, if nothing else is said, and at most."""


@dataclass(frozen=True)
class Cost:
    """Size and work of a student.

    Attributes:
        parameters: of the student that are trained, as at inference.
        training_parameters: with those of its method (of C2S the sums of Table III).
        frozen_parameters: of the student that are not trained.
        gflops: multiply-accumulates of one forward pass in units of 1e9, which the field calls
            GFLOPs; convolutions and matrix products, those of the attention included, those of the
            factorisation not.
        factorisation_gflops: those of SegNeXt's iterative matrix factorisation, which has no
            parameters; 0 for other students. Table III's 33.5 fits the count without them.
        input_size: side of the square input in pixels.
    """

    parameters: int
    training_parameters: int
    frozen_parameters: int
    gflops: float
    factorisation_gflops: float
    input_size: int


def student_cost(name: str, dim: int = 512, size: int = 512, settings: Sequence[str] = ()) -> Cost:
    """Count a student.

    Args:
        name: of the student.
        dim: D, width of the text embeddings.
        size: side of the input in pixels.
        settings: "key=value" of its method that decide its size; and "classes=N", how many it is asked for, which
            costs a student something that is not a `FeatureStudent` (default 20). With settings of its method it must
            be one that views of `size` could train.

    Raises:
        ConfigError: there is no such student or setting, the settings do not fit each other or views of `size`, or
            `dim` is no multiple of the attention heads.
    """
    if dim % HEADS:
        raise ConfigError(
            f"--dim {dim}: expected a multiple of the {HEADS} attention heads of latent embeddings."
        )
    from torch.utils.flop_counter import FlopCounterMode

    values = gathered({}, None, settings, {})
    classes = _whole(values.pop("classes", CLASSES))
    # Not every library's constructors do without memory.
    with nullcontext() if name not in NAMES else torch.device("meta"):
        model = _method_of(create(name, dim, "random"))
        method = resolve(
            model, {**values, "name": model.model_fields["name"].default}, None, (), {}
        )
        student = method.blank_student(name, dim, size if values else None).to("meta").eval()
    rows = np.full((classes, dim), dim**-0.5, np.float32)
    facts = Facts(
        Vocabulary(tuple(f"class {i}" for i in range(classes)), rows), classes, student=student
    )
    with torch.device("meta"):
        beside = method.build(facts)
        images, text = torch.zeros(1, 3, size, size), torch.zeros(classes, dim)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if isinstance(student, FeatureStudent):
                student(images)
            else:
                student.classify(images, text)
    total = counter.get_total_flops()
    factorisation = sum(
        sum(counter.get_flop_counts()[f"{type(student).__name__}.{name}"].values())
        for name, module in student.named_modules()
        if isinstance(module, Factorisation)
    )
    parameters = parameter_count(student.parameters())
    return Cost(
        parameters=parameters,
        training_parameters=parameters + parameter_count(beside.parameters()),
        frozen_parameters=sum(p.numel() for p in student.parameters()) - parameters,
        gflops=round((total - factorisation) / 2e9, 2),
        factorisation_gflops=round(factorisation / 2e9, 2),
        input_size=size,
    )


def _method_of(student: Student) -> type[MethodConfig]:
    """The first method of c2s that trains students of this kind."""
    found = (method_class(name) for name in METHODS)
    return next(
        (m for m in found if isinstance(student, m.kind)), method_class(next(iter(METHODS)))
    )


def _whole(value: object) -> int:
    text = str(value)
    if not text.isdecimal() or not 0 < int(text) <= MOST:
        raise ConfigError(f"classes={text}: expected a whole number from 1 to {MOST:,}.")
    return int(text)
