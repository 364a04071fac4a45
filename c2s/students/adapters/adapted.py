"""Invariant: an adapted model gives what its last classifier makes, before anything resizes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from c2s.students.adapters.classifier import (
    class_map,
    find_classifier,
    refusal,
    running,
    widened,
)
from c2s.students.adapters.library_student import InputSpec
from c2s.students.base import FeatureStudent

PLAIN = InputSpec()


class Adapted(FeatureStudent):
    """A segmentation model with the contract of a student; made by `adapt`.

    Args:
        model: the model, its classifier widened.
        dim: D.
        classifier: dotted name of the classifier in `model`.
        backbone: part of `model` that is pretrained; None: all but the classifier.
        input: how the model wants its images.
        config: JSON values that the model was made from, if its name does not say them.
    """

    def __init__(
        self,
        model: nn.Module,
        dim: int,
        classifier: str,
        backbone: nn.Module | None,
        input: InputSpec,
        config: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.classifier = f"model.{classifier}"
        self.input, self.mean, self.std = input, input.mean, input.std
        self.architecture = {"input": input.to_json()} | ({"config": config} if config else {})
        self.model = model
        if backbone is None:
            last = {id(p) for p in model.get_submodule(classifier).parameters()}
            backbone = nn.ParameterList(p for p in model.parameters() if id(p) not in last)
        # An alias: registered, every tensor would be saved under two names.
        self.__dict__["backbone"] = backbone

    def forward(self, images: Tensor) -> Tensor:
        """Features float [B, D, h, w] of normalised images [B, 3, H, W].

        What follows a convolution only resizes its outputs, which costs much at D channels and adds
        nothing, so they are taken as they are. The tokens of a linear layer have no place of their own;
        there the model's output is taken.
        """
        images = self.input.prepare(images)
        layer = self.get_submodule(self.classifier)
        if isinstance(layer, nn.Linear):
            return class_map(self.model(images), type(self.model).__name__)
        with _outputs_of(layer) as made:
            self.model(images)
        if len(made) != 1:
            raise refusal(type(self.model).__name__, f"it applies its last layer {len(made)} times")
        return made[0]


@contextmanager
def _outputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a convolution makes while the model runs; the model goes on with one channel of it."""
    made: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        made.append(output)
        return output[:, :1]

    handle = layer.register_forward_hook(keep)
    try:
        yield made
    finally:
        handle.remove()


def adapt(
    module: nn.Module,
    dim: int,
    *,
    backbone: nn.Module | None = None,
    input: InputSpec = PLAIN,
    config: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Adapted:
    """Make a student of a segmentation model: find its last classifier and widen it to D outputs.

    Args:
        module: maps images [B, 3, H, W] to [B, C, h, w], or to a container that has this as `logits` or
            `out`. It is changed in place and belongs to the student from then on. A classifier of D
            outputs is kept with its weights, any other gets new ones.
        dim: D, width of the features.
        backbone: part of `module` that is pretrained and learns at the lower rate; None: all but the
            classifier.
        input: how the model wants its images.
        config: JSON values to make the model from again, if its name does not say them.
        name: of the model, for messages; None: its class.

    Raises:
        ConfigError: no convolution or linear layer makes the output, or the model does not run on images
            of any size.
    """
    what = name or type(module).__name__
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        images = input.prepare(torch.zeros(1, 3, 64, 96, device=device))
        classifier = find_classifier(module, images, what)
        layer = module.get_submodule(classifier)
        module.set_submodule(classifier, widened(layer, dim))
        student = Adapted(module, dim, classifier, backbone, input, config)
        _check(student, torch.zeros(1, 3, 33, 97, device=device), what)
    finally:
        for part, training in modes.items():
            part.training = training
    return student


def _check(student: Adapted, images: Tensor, what: str) -> None:
    """Features have D channels, and their cells divide images of an odd size evenly."""
    with torch.no_grad(), running(what, images):
        features = student(images)
    if features.ndim != 4 or features.shape[1] != student.dim:
        raise refusal(what, f"widened to {student.dim} outputs it gives {list(features.shape)}")
    height, width = student.input.prepare(images).shape[-2:]
    if features.shape[2] * width != features.shape[3] * height:
        cells = " x ".join(str(n) for n in features.shape[2:])
        raise refusal(what, f"its {cells} cells do not divide {height} x {width} pixels evenly")
