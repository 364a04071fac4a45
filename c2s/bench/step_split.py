"""What the parts of a step of a prompted CLIP take, forward and backward: tower, decoder, losses, optimizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from c2s.bench.measure import alternate
from c2s.methods.batch import Batch
from c2s.students.prompted_clip import PromptedCLIP
from c2s.training.module import DistillationModule, student_input
from c2s.training.trial import training_step

PARTS = ("tower", "decoder", "losses", "optimizer")


def step_split(
    module: DistillationModule,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    rounds: int,
    advance: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Milliseconds of a step by part: medians of ever longer beginnings of it, one taken off the next.

    Args:
        module: of a prompted CLIP, in training, on the device of the batch.
        optimizer: its.
        batch: what all steps learn from.
        rounds: timed rounds of each beginning.
        advance: called after every round.
    """
    student = module.student
    assert isinstance(student, PromptedCLIP)
    images = student_input(batch, student)
    text = module.method.text
    assert isinstance(text, Tensor)

    def tower() -> Tensor:
        return _sum(*student.encode(images))

    def decoder() -> Tensor:
        return _sum(student(images, text).logits)

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

    ends = [beginning(tower), beginning(decoder), beginning(losses), whole]
    rates = alternate(dict(zip(PARTS, ends, strict=True)), rounds, advance=advance)
    times = [1000 / rates[part].median for part in PARTS]
    return {
        part: round(end - start, 1)
        for part, start, end in zip(PARTS, [0.0, *times], times, strict=False)
    }


def _sum(*values: Tensor) -> Tensor:
    total = torch.zeros((), device=values[0].device)
    for value in values:
        total = total + value.float().sum()
    return total


def _done(images: Tensor) -> int:
    if images.is_cuda:
        torch.cuda.synchronize()
    return 1
