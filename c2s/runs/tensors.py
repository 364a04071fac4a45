"""Invariant: a file of tensors is whole, durable and finite, or it is not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from c2s.tensor_file import seal, write_whole
from c2s_cache.errors import C2SError


class NotFinite(C2SError):
    """A loss or a weight is nan or infinite."""


def require_finite(tensors: Mapping[str, Tensor], what: str, hint: str | None = None) -> None:
    """Look at every value, all of one device, and wait for that device once.

    Raises:
        NotFinite: says how many of the tensors of `what` are not finite, and names the first.
    """
    names = [name for name, value in tensors.items() if value.is_floating_point()]
    if not names:
        return
    finite = torch.stack([tensors[name].isfinite().all() for name in names]).tolist()
    lost = [name for name, good in zip(names, finite, strict=True) if not good]
    if lost:
        raise NotFinite(
            f"{len(lost)} of {len(tensors)} tensors of {what} are not finite, first {lost[0]}.",
            hint,
        )


def difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first difference of names, shapes or kinds of values, in a few words; None: they fit."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"it lacks {name}"
        if name not in expected:
            return f"unexpected {name}"
        ours, theirs = expected[name], found[name]
        if ours.shape != theirs.shape:
            return f"{name} is {list(theirs.shape)}, expected {list(ours.shape)}"
        if ours.is_floating_point() != theirs.is_floating_point():
            return f"{name} is {theirs.dtype}, expected {ours.dtype}"
    return None


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, of tensors on any device, as `write_atomic` writes bytes.

    Raises:
        NotFinite: a value is nan or infinite; nothing is written.
        OSError: it cannot be written.
    """
    # safetensors refuses views that share memory or are not contiguous.
    plain = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    require_finite(plain, str(file))
    write_whole(file, lambda partial: save_file(plain, partial, seal(plain)))
