"""What the parts of a step take, forward and backward, of students whose step has parts of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from c2s.bench.measure import alternate
from c2s.methods.batch import Batch
from c2s.methods.gkc.examples import GKCBatch
from c2s.methods.gkc.method import GKC, segment_masks
from c2s.students.prompted_clip import PromptedCLIP
from c2s.students.query import Queries, QueryStudent
from c2s.training.module import DistillationModule, student_input
from c2s.training.trial import training_step


def step_split(
    module: DistillationModule,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    rounds: int,
    advance: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Milliseconds of a step by part: medians of ever longer beginnings of it, one taken off the next.

    The parts are those of `beginnings`, "losses" and "optimizer".

    Args:
        module: in training, on the device of the batch.
        optimizer: its.
        batch: what all steps learn from.
        rounds: timed rounds of each beginning.
        advance: called after every round.

    Returns:
        Nothing of a student whose step has no parts of its own.
    """
    first = beginnings(module, batch)
    if not first:
        return {}
    images = student_input(batch, module.student)

    def losses() -> Tensor:
        return module.training_step(batch, 0)["loss"]

    def beginning(part: Callable[[], Tensor]) -> Callable[[], int]:
        def side() -> int:
            value = part()
            if value.requires_grad:  # the tower alone needs no gradient without prompts
                torch.autograd.backward(value)
            optimizer.zero_grad()
            return _done(images)

        return side

    def whole() -> int:
        training_step(module, optimizer, batch)
        return _done(images)

    ends = {name: beginning(part) for name, part in (first | {"losses": losses}).items()}
    rates = alternate(ends | {"optimizer": whole}, rounds, advance=advance)
    parts = [*ends, "optimizer"]
    times = [1000 / rates[part].median for part in parts]
    return {
        part: round(end - start, 1)
        for part, start, end in zip(parts, [0.0, *times], times, strict=False)
    }


def beginnings(module: DistillationModule, batch: Batch) -> dict[str, Callable[[], Tensor]]:
    """Ever longer beginnings of the forward pass, by the part that each ends with: "tower" and "decoder" of a prompted
    CLIP, "student" and "matching" of queries."""
    student, method = module.student, module.method
    images = student_input(batch, student)
    if isinstance(student, PromptedCLIP):
        text = method.text
        assert isinstance(text, Tensor)
        return {
            "tower": lambda: _sum(*student.encode(images)),
            "decoder": lambda: _sum(student(images, text).logits),
        }
    if not isinstance(student, QueryStudent):
        return {}
    assert isinstance(method, GKC)
    assert isinstance(batch, GKCBatch)
    frames = method.config.frames

    def all_of(found: Queries) -> Tensor:
        return _sum(*found.masks, *found.embeddings)

    def matching() -> Tensor:
        found: Queries = student(images, frames)
        method.matches(found, segment_masks(batch), batch)
        return all_of(found)

    return {"student": lambda: all_of(student(images, frames)), "matching": matching}


def _sum(*values: Tensor) -> Tensor:
    total = torch.zeros((), device=values[0].device)
    for value in values:
        total = total + value.float().sum()
    return total


def _done(images: Tensor) -> int:
    if images.is_cuda:
        torch.cuda.synchronize()
    return 1
