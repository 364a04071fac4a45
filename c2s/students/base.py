"""Invariant: a student answers one question: which of any classes is where in an image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
"""Of the images that most backbones were pretrained on, RGB, in units of pixel / 255."""
CLIP_SCALE = 100.0
"""Of cosines, where a teacher's own is not known."""
UNDECAYED = ("pos_embed", "position", "cls_token", "level_embed", "queries_")
"""Parts of names of parameters without weight decay, beside those of one axis."""


class Student(nn.Module, ABC):
    """A segmentation model that is asked with text embeddings; what else it computes is its method's matter.

    Attributes:
        dim: D, width of the text embeddings = joint width of the teacher.
        backbone: the pretrained part; everything else is the head, which learns faster.
        mean, std: normalisation of the inputs, RGB, in units of pixel / 255.
        architecture: what the student's name leaves open, in JSON values; run folders keep it and
            `create` takes it back. None: nothing.
        frozen: what the names of tensors that never change begin with; a run stores these once, not in
            every checkpoint.
    """

    dim: int
    backbone: nn.Module
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    architecture: Mapping[str, Any] | None = None
    frozen: tuple[str, ...] = ()

    @abstractmethod
    def classify(self, images: Tensor, text: Tensor) -> Tensor:
        """Scores of any classes, at the student's own resolution; the largest wins.

        Args:
            images: float [B, 3, H, W] of any size from 32 pixels on, RGB, normalised with the student's
                `mean` and `std`.
            text: float32 [K, D], the classes' text embeddings, unit norm.

        Returns:
            float32 [B, K, h, w]; the h x w cells divide the whole image evenly.
        """


class FeatureStudent(Student):
    """A closed-set segmentation model whose last classifier is widened to D outputs, its features.

    Attributes:
        classifier: dotted name of the last layer, a convolution or a linear layer whose D outputs,
            resized at most, are the features. Class embeddings can be folded into it.
    """

    classifier: str

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Features [B, D, h, w] of images as for `classify`, not normalised."""

    def classify(self, images: Tensor, text: Tensor) -> Tensor:
        """Cosines of each position's feature with the embeddings; see `Student.classify`."""
        features = F.normalize(self(images).float(), dim=1)
        return torch.einsum("bdhw,kd->bkhw", features, text)


def normalize_images(images: Tensor, student: nn.Module) -> Tensor:
    """RGB [B, 3, H, W] in 0..255 to float32, normalised as the student expects."""
    mean = torch.tensor(getattr(student, "mean", IMAGENET_MEAN), device=images.device)
    std = torch.tensor(getattr(student, "std", IMAGENET_STD), device=images.device)
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images whose sides are multiples of a stride, so that its cells divide them evenly.

    Args:
        images: float [B, 3, H, W].
        multiple: stride in pixels.

    Returns:
        The images, resized bilinearly by less than `multiple` pixels where they need it.
    """
    height, width = images.shape[-2:]
    size = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    if size == (height, width):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def initialise_convolutions(module: nn.Module, classifier: nn.Conv2d | None = None) -> None:
    """Random weights as mmsegmentation draws them: normal, He et al.'s by fan-out, biases zero.

    Args:
        module: whose convolutions are filled.
        classifier: the one among them that gets a standard deviation of 0.01.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
            std = 0.01 if conv is classifier else math.sqrt(2 / fan_out)
            nn.init.normal_(conv.weight, std=std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    head_lr_mult: float,
    lr_mult: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Optimizer groups of the stock schedule.

    Head and method learn at `head_lr_mult` times the backbone's rate; no weight decay on norms,
    biases, embeddings of positions, levels and queries, and class tokens.

    Args:
        model: a module with the child `student` and, optionally, other children (the method's).
        lr: learning rate of the backbone.
        weight_decay: decay of the weights that have one.
        head_lr_mult: factor on `lr` outside the backbone.
        lr_mult: factors on `lr`, in place of both, of parameters whose names begin with the keys; the longest
            counts.

    Returns:
        Groups, up to four where `lr_mult` is empty, with keys params, names, lr, weight_decay; every
        trainable parameter is in exactly one.
    """
    backbone = {id(p) for p in _backbone(model).parameters()}
    names: dict[tuple[float, float], list[str]] = {}
    params: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        # Norms and biases are the parameters of one axis.
        plain = param.ndim < 2 or any(part in name for part in UNDECAYED)
        rate = lr if id(param) in backbone else lr * head_lr_mult
        own = max(
            (start for start in lr_mult or {} if name.startswith(start)), key=len, default=None
        )
        if lr_mult and own is not None:
            rate = lr * lr_mult[own]
        key = (rate, 0.0 if plain else weight_decay)
        names.setdefault(key, []).append(name)
        params.setdefault(key, []).append(param)
    return [
        {"params": group, "names": names[key], "lr": key[0], "weight_decay": key[1]}
        for key, group in params.items()
    ]


def _backbone(model: nn.Module) -> nn.Module:
    student = getattr(model, "student", model)
    backbone = getattr(student, "backbone", None)
    return backbone if isinstance(backbone, nn.Module) else nn.Module()


def parameter_count(parameters: Iterable[nn.Parameter]) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in parameters if p.requires_grad)
