"""Invariant: a digest tells apart all that can change what a tower computes: its weights, and its activation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_digest(state: Mapping[str, Tensor], activation: str | None = None) -> str:
    """Hex SHA-256 over an activation and the names, shapes, dtypes and bytes of tensors, whatever their order."""
    hasher = hashlib.sha256(f"{activation or ''}\n".encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def teacher_digest(tower: str, text: str | None) -> str:
    """Hex SHA-256 of a whole teacher, from those of its image tower and its text tower (None: it has none)."""
    return hashlib.sha256(f"{tower} {text or ''}".encode()).hexdigest()
