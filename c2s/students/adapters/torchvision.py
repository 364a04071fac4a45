"""Segmentation models of torchvision: `torchvision:deeplabv3_resnet50`."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from c2s.students.adapters.library_student import InputSpec, LibraryStudent
from c2s.students.adapters.weights import PRETRAINED, fill, is_file, making
from c2s.students.weights import read_checkpoint
from c2s_cache.errors import ConfigError

MULTIPLE = 32


class JointLRASPPHead(nn.Module):
    """LR-ASPP's head with the sum of its two classifiers as one over both inputs.

    A x + B y + a + b = [A B] [x; y] + (a + b): the same function, of one last layer.

    Args:
        head: torchvision's, whose layers are taken over, both classifiers in one.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        low, high = head.low_classifier, head.high_classifier
        self.cbr, self.scale = head.cbr, head.scale
        self.classifier = nn.Conv2d(low.in_channels + high.in_channels, low.out_channels, 1)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.cat([low.weight, high.weight], 1))
            self.classifier.bias = nn.Parameter(low.bias + high.bias)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """Maps "low" [B, ., h, w] and "high" at half of that to [B, C, h, w]."""
        low, high = maps["low"], maps["high"]
        x = self.cbr(high) * self.scale(high)
        x = F.interpolate(x, low.shape[-2:], mode="bilinear", align_corners=False)
        out: Tensor = self.classifier(torch.cat([low, x], 1))
        return out


def build(name: str, dim: int, weights: str | None, config: Any = None) -> LibraryStudent:
    """A segmentation model of torchvision without its auxiliary head.

    Args:
        name: as of `torchvision.models.get_model`.
        dim: D.
        weights: None or "random": none; "pretrained": the backbone's of ImageNet; a member of the
            model's weights, such as "COCO_WITH_VOC_LABELS_V1": all layers but the classifier; or a file
            of the backbone.
        config: unused.

    Raises:
        ConfigError: no such model, or the weights cannot be had or do not fit.
    """
    models = torchvision.models
    known = models.list_models(module=models.segmentation)
    if name not in known:
        raise ConfigError(
            f"There is no student torchvision:{name}; choose a model of {', '.join(known)}."
        )
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=dim)
    if isinstance(model, models.segmentation.LRASPP):
        model.classifier = JointLRASPPHead(model.classifier)
        last = "classifier.classifier"
    else:
        last = f"classifier.{len(model.classifier) - 1}"
    if is_file(weights):
        fill(model.backbone, read_checkpoint(weights), weights)
    elif weights in PRETRAINED:
        backbone = name.partition("_")[2]
        fill(model.backbone, _state(backbone, "DEFAULT"), f"of {backbone}")
    elif weights is not None:
        fill(model, _state(name, weights), weights, but=last)
    return LibraryStudent(model, model.backbone, InputSpec(MULTIPLE))


def _state(model: str, weights: str) -> dict[str, Tensor]:
    """Tensors that torchvision offers for a model; all of its weights go with ImageNet's normalisation."""
    with making(f"torchvision:{model}", weights):
        member = torchvision.models.get_model_weights(model)[weights]
        return dict(member.get_state_dict(check_hash=True, weights_only=True))
