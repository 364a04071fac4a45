"""Invariant: an exported program is kept only if, read back, it computes what the model does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from c2s.deploy.info import ModelError
from c2s.deploy.model import SegmentationModel

MULTIPLE = 32
"""Sides of images are multiples of the coarsest stride of the usual backbones."""
BATCH, SIDES = Dim("batch"), {2: MULTIPLE * Dim("rows"), 3: MULTIPLE * Dim("columns")}
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit."""


def export_program(model: SegmentationModel, file: Path) -> bool:
    """Write the model as a torch.export program `images [B, 3, H, W] -> logits [B, K, h, w]`.

    Batch size and, if the student allows it, the sides (multiples of 32, from 64 pixels on) stay free;
    otherwise the sides are fixed to those of the training views.

    Args:
        model: in evaluation mode.
        file: a .pt2 file, read with torch.export.load; c2s is not needed for that.

    Returns:
        Whether the sides are free.

    Raises:
        ModelError: the model cannot be exported, or the program computes something else.
    """
    crop = model.config.crop
    try:
        program, free = _trace(model, (3 * MULTIPLE, 4 * MULTIPLE), {0: BATCH, **SIDES}), True
    except Exception:  # whatever in a foreign architecture torch.export cannot follow
        try:
            program, free = _trace(model, (crop, crop), {0: BATCH}), False
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"A {model.config.student} cannot be exported: {reason}") from error
    with warnings.catch_warnings():
        # Said of weights in channels-last order, which are saved whole.
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, file)
    read = torch.export.load(file).module()
    sizes = (
        [(2 * MULTIPLE, 5 * MULTIPLE), (4 * MULTIPLE, 3 * MULTIPLE)] if free else [(crop, crop)] * 2
    )
    for batch, size in zip((1, 3), sizes, strict=True):
        _compare(model, read, torch.randn(batch, 3, *size), file)
    return free


def _trace(
    model: SegmentationModel, size: tuple[int, int], dynamic: dict[int, Any]
) -> ExportedProgram:
    return torch.export.export(model, (torch.randn(2, 3, *size),), dynamic_shapes=(dynamic,))


@torch.inference_mode()
def _compare(
    model: SegmentationModel, program: torch.nn.Module, images: Tensor, file: Path
) -> None:
    expected, got = model(images), program(images)
    difference, largest = float((expected - got).abs().max()), float(expected.abs().max())
    if not difference <= TOLERANCE * largest:  # scores may all be 0, and none may be NaN
        raise ModelError(
            f"The exported program {file} differs from the model by {difference:.1e} on images of "
            f"{tuple(images.shape[2:])} pixels, where the largest logit is {largest:.1e}; expected at most "
            f"{TOLERANCE:.0e} of it."
        )
