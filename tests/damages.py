"""What becomes of a file on a bad day."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "binary": lambda data: bytes(range(256)) * (len(data) // 256 + 1),
    "truncated": lambda data: data[: len(data) // 2],
    "latin": lambda data: b"\xe9" + data,
    "null": lambda data: b"null",
    "list": lambda data: b"[]",
    "mapping": lambda data: b"{}",
    "number": lambda data: b"7",
    "nested": lambda data: b"[" * 1500 + b"]" * 1500,
}
REPLACED: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: None,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "circle": lambda file: file.symlink_to(file.name),
}


def damage(file: Path, how: str) -> None:
    """Do it to a file: one of `damages`."""
    data = file.read_bytes()
    if how in DAMAGES:
        file.write_bytes(DAMAGES[how](data))
        return
    if how in REPLACED:
        file.unlink()
        REPLACED[how](file)
        return
    if how == "flipped":  # a single bit, of the last tensor
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        return
    tensors = load_file(file)
    if how == "shapes":
        tensors = {k: torch.zeros(*v.shape, 2, dtype=v.dtype) for k, v in tensors.items()}
    elif how == "names":
        tensors = {f"other.{k}": v for k, v in tensors.items()}
    else:
        tensors = {k: v.to(torch.uint8) for k, v in tensors.items()}
    save_file(tensors, file)


def damages(file: str) -> list[str]:
    """What may happen to a file of that name."""
    tensors = ["flipped", "shapes", "names", "types"] if file.endswith(".safetensors") else []
    return [*DAMAGES, *REPLACED, *tensors]
