"""Plain segmentation models such as users have: what `python:` names and `adapt` are tried on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from c2s.students import adapt
from c2s.students.adapters import InputSpec


class Convolutional(nn.Module):
    """Two strided convolutions, a 3 x 3 classifier, enlarged to the image; deep supervision in training."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(8, classes, 3, padding=1)
        self.early = nn.Conv2d(8, classes, 1)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.body(images)
        out = F.interpolate(self.last(x), images.shape[-2:], mode="bilinear", align_corners=True)
        return (out, self.early(x)) if self.training else out


class Tokens(nn.Module):
    """Patches as tokens and a linear classifier, put back in place."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
        self.last = nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images)
        tokens = self.last(self.mix(x.flatten(2).transpose(1, 2)))
        out = tokens.transpose(1, 2).unflatten(2, x.shape[-2:])
        return F.interpolate(out, scale_factor=2.0, mode="bilinear")


def convolutional(classes: int) -> nn.Module:
    return Convolutional(classes)


def tokens(classes: int) -> nn.Module:
    return Tokens(classes)


def of_any_classes(classes: int) -> nn.Module:
    """A student that is adapted already, of a model with 7 classes that takes blue first."""
    torch.manual_seed(3)
    model = Convolutional(7)
    return adapt(model, classes, backbone=model.body, input=InputSpec(4, bgr=True))
