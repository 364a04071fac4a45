"""Invariant: what a program around c2s has made torch's defaults changes nothing here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def plain_torch() -> Iterator[None]:
    """New tensors are float32 on the CPU unless they say otherwise, as where nobody has set a default."""
    dtype = torch.get_default_dtype()
    elsewhere = torch.get_default_device().type != "cpu"
    with torch.device("cpu") if elsewhere else nullcontext():
        if dtype is not torch.float32:
            torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            if dtype is not torch.float32:
                torch.set_default_dtype(dtype)
