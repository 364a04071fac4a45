"""What a student costs, counted without computing anything."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from c2s.students.base import parameter_count
from c2s.students.registry import NAMES, create
from c2s.students.segnext import Factorisation
from c2s_cache.errors import ConfigError

HEADS = 8
"""Attention heads of the latent embeddings' decoder layer."""


@dataclass(frozen=True)
class Cost:
    """Size and work of a student.

    Attributes:
        parameters: of the student, as at inference.
        training_parameters: with the latent embedding's decoder layer (the sums of Table III).
        gflops: multiply-accumulates of one forward pass in units of 1e9, which the field calls
            GFLOPs; convolutions and matrix products, those of the attention included, those of the
            factorisation not.
        factorisation_gflops: those of SegNeXt's iterative matrix factorisation, which has no
            parameters; 0 for other students. Table III's 33.5 fits the count without them.
        input_size: side of the square input in pixels.
    """

    parameters: int
    training_parameters: int
    gflops: float
    factorisation_gflops: float
    input_size: int


def student_cost(name: str, dim: int = 512, size: int = 512) -> Cost:
    """Count a student.

    Args:
        name: of the student.
        dim: D, width of the features.
        size: side of the input in pixels.

    Raises:
        ConfigError: there is no such student, or `dim` is no multiple of the attention heads.
    """
    if dim % HEADS:
        raise ConfigError(
            f"--dim {dim}: expected a multiple of the {HEADS} attention heads of latent embeddings."
        )
    from torch.utils.flop_counter import FlopCounterMode

    # Not every library's constructors do without memory.
    with nullcontext() if name not in NAMES else torch.device("meta"):
        student = create(name, dim, "random").to("meta").eval()
    with torch.device("meta"):
        layer = nn.TransformerDecoderLayer(dim, HEADS, dim_feedforward=4 * dim)
        with FlopCounterMode(display=False) as counter:
            student(torch.zeros(1, 3, size, size))
    total = counter.get_total_flops()
    factorisation = sum(
        sum(counter.get_flop_counts()[f"{type(student).__name__}.{name}"].values())
        for name, module in student.named_modules()
        if isinstance(module, Factorisation)
    )
    parameters = parameter_count(student.parameters())
    return Cost(
        parameters=parameters,
        training_parameters=parameters + parameter_count(layer.parameters()),
        gflops=round((total - factorisation) / 2e9, 2),
        factorisation_gflops=round(factorisation / 2e9, 2),
        input_size=size,
    )
