"""Invariant: a worker is given one GPU, by the name under which this process sees it."""

from __future__ import annotations

import os

import torch


def default_device() -> str:
    """The torch device that computes unless another is named: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]
