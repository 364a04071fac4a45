"""Invariant: an image tower in a cache is one safetensors file that says all that is needed to compute with it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from c2s_cache.errors import CacheError

HEADER = "c2s_tower"
"""Key of the file's metadata that holds the description; the only one, since safetensors orders several at random."""


class TowerInfo(BaseModel):
    """A CLIP vision transformer, as far as its weights do not tell.

    Patches of `patch` pixels, without bias, and a class token get positions, a norm, and `layers` blocks of `width`
    with `heads` heads and an MLP of width `mlp`, norms first; a norm and a projection to `dim` follow. The embedding
    of an image of `image_size` pixels is the class token's (`pool` "tok") or the mean of the patches' ("avg").
    `digest` is the teacher's `tower_digest`; `eps` is that of all norms; `mean` and `std` normalise pixels / 255.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp: int = Field(gt=0)
    patch: int = Field(gt=0)
    image_size: int = Field(gt=0)
    dim: int = Field(gt=0)
    activation: Literal["gelu", "quick_gelu"]
    pool: Literal["tok", "avg"]
    eps: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def grid(self) -> int:
        """Patches along a side of an image of `image_size` pixels."""
        return self.image_size // self.patch

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, by open_clip's name."""
        w, m = self.width, self.mlp
        norm = {"weight": (w,), "bias": (w,)}
        block = {
            **{f"ln_1.{k}": s for k, s in norm.items()},
            **{f"ln_2.{k}": s for k, s in norm.items()},
            "attn.in_proj_weight": (3 * w, w),
            "attn.in_proj_bias": (3 * w,),
            "attn.out_proj.weight": (w, w),
            "attn.out_proj.bias": (w,),
            "mlp.c_fc.weight": (m, w),
            "mlp.c_fc.bias": (m,),
            "mlp.c_proj.weight": (w, m),
            "mlp.c_proj.bias": (w,),
        }
        return {
            "class_embedding": (w,),
            "positional_embedding": (self.grid**2 + 1, w),
            "proj": (w, self.dim),
            "conv1.weight": (w, 3, self.patch, self.patch),
            **{f"ln_pre.{k}": s for k, s in norm.items()},
            **{f"ln_post.{k}": s for k, s in norm.items()},
            **{
                f"transformer.resblocks.{i}.{name}": shape
                for i in range(self.layers)
                for name, shape in block.items()
            },
        }


def encode_tower(info: TowerInfo, tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
    """The file of a tower, the same bytes for the same tower: uint8 [bytes].

    Args:
        info: what it is.
        tensors: float32, of the names and shapes of `info.shapes()`.

    Raises:
        CacheError: they are others.
    """
    from safetensors.numpy import save

    _check(info, tensors)
    content: bytes = save(dict(tensors), {HEADER: info.model_dump_json()})
    return np.frombuffer(content, np.uint8)


def tower_info(content: NDArray[np.uint8]) -> TowerInfo:
    """What a tower's file says of it.

    Raises:
        CacheError: it is no such file.
    """
    try:
        (length,) = struct.unpack("<Q", content[:8].tobytes())
        header: Any = json.loads(content[8 : 8 + length].tobytes())
        return TowerInfo.model_validate_json(header["__metadata__"][HEADER])
    except (struct.error, ValueError, LookupError, TypeError, ValidationError) as error:
        raise CacheError("what is stored is no image tower.") from error


def decode_tower(
    content: NDArray[np.uint8],
) -> tuple[TowerInfo, dict[str, NDArray[np.float32]]]:
    """What a tower's file says of it, and its tensors by open_clip's names.

    Raises:
        CacheError: it is no such file, or lacks a tensor.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    info = tower_info(content)
    try:
        tensors: dict[str, NDArray[np.float32]] = load(content.tobytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise CacheError(f"what is stored is no image tower ({error}).") from error
    _check(info, tensors)
    return info, tensors


def _check(info: TowerInfo, tensors: Mapping[str, NDArray[Any]]) -> None:
    want = info.shapes()
    for name in sorted(want.keys() | tensors.keys()):
        have = tensors[name].shape if name in tensors else None
        if have != want.get(name) or tensors[name].dtype != np.float32:
            raise CacheError(
                f"image tower: the tensor {name} is {have and list(have)}, expected float32 {want.get(name)}."
            )
