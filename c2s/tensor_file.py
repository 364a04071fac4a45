"""Invariant: a safetensors file is the old one or the new, wherever writing it stopped, and knows its own content."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from c2s_cache.receipt import sync_directory

SEAL = "c2s_sha256"
"""Key of a file's metadata that holds the digest of its tensors."""


def seal(tensors: Mapping[str, Tensor], beside: Mapping[str, str] | None = None) -> dict[str, str]:
    """Metadata of a file of these tensors, on the CPU and contiguous: what `load_sealed` checks.

    Args:
        tensors: of the file.
        beside: digests of other files that it means nothing without, by name.
    """
    hasher = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        hasher.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    others = (f"{name}={digest}" for name, digest in (beside or {}).items())
    # one key alone: safetensors writes several in any order
    return {SEAL: " ".join([hasher.hexdigest(), *others])}


def load_sealed(file: Path, beside: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; where it has a seal, they are those that were written.

    Args:
        file: the file.
        beside: see `seal`.

    Raises:
        SafetensorError: it is damaged, or a file beside it is not the one that it was written with.
        OSError: it cannot be read.
    """
    tensors: dict[str, Tensor] = load_file(file)
    with safe_open(file, "pt") as opened:
        said = (opened.metadata() or {}).get(SEAL)
    if said is not None and said != (now := seal(tensors, beside)[SEAL]):
        if said.split()[:1] == now.split()[:1]:
            names = " or ".join(beside or {})
            raise SafetensorError(f"it was written with another {names} than the one beside it")
        raise SafetensorError("its tensors are not those that were written")
    return tensors


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Have a safetensors file written so that any reader sees the old one or the new, also after a crash.

    Args:
        file: the file.
        write: writes one to the path it is given.

    Raises:
        OSError: it cannot be written.
    """
    partial = file.with_name(f".{file.name}.part")
    for path in (file, partial):
        if path.exists() and not path.is_file():  # a device or a pipe would be replaced
            raise OSError(errno.EINVAL, "no regular file", str(path))
    try:
        partial.touch()
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # safetensors' own files are their owner's alone, whatever the umask
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
        sync_directory(file.parent)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)
