"""Invariant: a file of weights is read as data; nothing in it is ever called, TorchScript included."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from c2s_cache import C2SError

OPENAI = ("input_resolution", "context_length", "vocab_size")
"""Entries beside the weights in what OpenAI published, and in nothing that open_clip writes."""

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Weights:
    """Weights that open_clip does not read by itself.

    `state` are the tensors by open_clip's own names; `resolution` is the side in pixels of the images
    that OpenAI trained them on (None: they are not OpenAI's).
    """

    state: dict[str, Tensor]
    resolution: int | None


def packed_weights(file: Path) -> Weights | None:
    """The weights in a TorchScript archive, or in a checkpoint that has OpenAI's three entries.

    Returns:
        None for any other file: open_clip reads those.

    Raises:
        C2SError: it is no checkpoint.
        pickle.UnpicklingError: the archive holds more than tensors and plain values.
        OSError, ValueError, RuntimeError, KeyError, zipfile.BadZipFile: it is damaged.
    """
    if file.suffix in (".npz", ".npy"):  # of big_vision, which open_clip converts
        return None
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            if not set(OPENAI) <= set(opened.keys()):
                return None
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    elif _is_archive(file):
        state = dict(_tensors(_read_archive(file)))
    else:
        state = _checkpoint(file)
        if not set(OPENAI) <= state.keys():
            return None
    entries = [state.pop(name, None) for name in OPENAI]
    state = {name: value for name, value in state.items() if not name.endswith("attn_mask")}
    return Weights(state, None if entries[0] is None else int(entries[0]))


def _checkpoint(file: Path) -> dict[str, Any]:
    """The entries of a file of torch.save."""
    mapped = zipfile.is_zipfile(file)  # the form before torch 1.6 cannot be
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # what is no pickle fails in any way: an empty stack, a wrong type
        raise C2SError(
            f"{file} is no file of weights: neither safetensors, nor a TorchScript archive, nor a checkpoint of "
            "plain tensors.",
            "Other pickled objects are never made; convert them to safetensors where they can be trusted.",
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    return dict(content) if isinstance(content, Mapping) else {}


def _is_archive(file: Path) -> bool:
    """Whether it is a TorchScript archive, by what torch goes by."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


class _Object:
    """Stands for any object of TorchScript: its attributes, and none of its code."""


@dataclass
class _Storage:
    key: str
    dtype: torch.dtype


class _Reader(pickle.Unpickler):
    """torch.jit.load would compile the archive's code and run the parts that restore its objects. This
    reader knows stand-ins and tensors only, and refuses to look up anything else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self._archive, self._folder = archive, folder
        self._read: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return type("_Object", (_Object,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *given: self._tensor(*given)
        if (module, name) == ("collections", "OrderedDict"):
            return lambda *given: {}
        if module == "torch.jit._pickle":  # typed lists and the like: their content
            return lambda content, *kind: content
        if module == "torch" and name in STORAGES:
            return name
        raise pickle.UnpicklingError(f"it holds an object of {module}.{name}, which is no tensor")

    def persistent_load(self, saved: Any) -> _Storage:
        _, kind, key, *_ = saved
        return _Storage(str(key), STORAGES[kind])

    def _tensor(
        self,
        storage: _Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *_: Any,
    ) -> Tensor:
        if storage.key not in self._read:
            data = bytearray(self._archive.read(f"{self._folder}/data/{storage.key}"))
            empty = torch.zeros(0, dtype=storage.dtype)
            read = torch.frombuffer(data, dtype=storage.dtype) if data else empty
            self._read[storage.key] = read
        if not math.prod(size):
            return torch.zeros(tuple(size), dtype=storage.dtype)
        return self._read[storage.key].as_strided(tuple(size), tuple(stride), offset)


def _read_archive(file: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        folder = min(names, key=len).removesuffix("/data.pkl")
        return _Reader(archive, folder).load()


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of an object and of those below it, by the names of a state dict."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Object):
            yield from _tensors(value, f"{prefix}{name}.")
