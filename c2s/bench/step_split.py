"""What the parts of a step take, forward and backward, of methods whose step has parts of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from c2s.bench.measure import alternate
from c2s.methods.base import Method
from c2s.methods.batch import Batch
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

    The parts are those of `Method.beginnings`, "losses" and "optimizer".

    Args:
        module: in training, on the device of the batch.
        optimizer: its.
        batch: what all steps learn from.
        rounds: timed rounds of each beginning.
        advance: called after every round.

    Returns:
        Nothing of a method whose step has no parts of its own.
    """
    images, method = student_input(batch, module.student), module.method
    assert isinstance(method, Method)
    first = {
        name: partial(_sum, part)
        for name, part in method.beginnings(module.student, images, batch).items()
    }
    if not first:
        return {}

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


def _sum(part: Callable[[], Iterable[Tensor]]) -> Tensor:
    return torch.stack([value.float().sum() for value in part()]).sum()


def _done(images: Tensor) -> int:
    if images.is_cuda:
        torch.cuda.synchronize()
    return 1
