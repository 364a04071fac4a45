"""Invariant: name and width alone create a student, so a run folder opens anywhere."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

NAMES = (*(f"segformer-b{n}" for n in range(6)), "shapes-net")


def create(name: str, dim: int, weights: str | None = None) -> nn.Module:
    """A student by name; its module is imported only now.

    Args:
        name: one of `NAMES`.
        dim: D, width of the features.
        weights: pretrained weights of the backbone, as the student's class documents; "random" for
            none; None for the default (random for SegFormer, the shipped ones for shapes-net).

    Returns:
        Module with the contract of `c2s.students.base.Student`.

    Raises:
        ConfigError: unknown name, or the weights do not fit.
    """
    family, _, size = name.partition("-")
    if name not in NAMES:
        raise ConfigError(f"There is no student {name!r}; choose one of {', '.join(NAMES)}.")
    if family == "segformer":
        from c2s.students.segformer import SegFormer

        return SegFormer(size, dim, None if weights == "random" else weights)
    module = importlib.import_module("c2s.students.shapes_net")
    student: nn.Module = module.ShapesNet(dim, weights)
    return student
