"""Dense features without training: what the last block of a frozen transformer may do differently.

Invariant: the image embedding and all blocks but the last are untouched; "plain" is the paper's C_d.

plain        the patch tokens after the final norm and projection (Sec. III-B); where there is no projection but that of
             an attention pooling, each patch pooled as if it were alone
pooled       each patch through the attention pooling as if it were alone: values, output projection and what follows
unprojected  the patch tokens after the final norm, before the projection
penultimate  the output of the last block but one, neither normed nor projected
mid          the same of the block at two thirds of the depth (8 of 12), as SC-CLIP clusters
value        values alone in place of attention, residual and FFN dropped
maskclip     the same with both kept, as the code of MaskCLIP has it
qq, kk, vv   self-self attention; qq is ClearCLIP, vv as in CLIP Surgery
qq-kk        softmax(q q^T) + softmax(k k^T), residual and FFN kept (SCLIP)
neighbour    k k^T plus a Gaussian of the distance between cells (NACLIP)

From `value` on they change the last block; all but maskclip and qq-kk drop its residual connection and FFN.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from einops import rearrange
from torch import Tensor, nn

from c2s_pipeline.teachers.blocks import taken_apart
from c2s_pipeline.teachers.tower import DenseFeatures, Tower

NEIGHBOUR_STD = 5.0
"""Standard deviation of the Gaussian of `neighbour`, in cells."""


@dataclass(frozen=True)
class _LastBlock:
    """Pairs whose scaled products are soft-maxed and summed; none: every token attends to itself."""

    pairs: tuple[str, ...]
    gaussian: bool = False
    residual: bool = False


_LAST_BLOCKS: dict[DenseFeatures, _LastBlock] = {
    "value": _LastBlock(()),
    "maskclip": _LastBlock((), residual=True),
    "qq": _LastBlock(("q",)),
    "kk": _LastBlock(("k",)),
    "vv": _LastBlock(("v",)),
    "qq-kk": _LastBlock(("q", "k"), residual=True),
    "neighbour": _LastBlock(("k",), gaussian=True),
}
_UNPROJECTED: tuple[DenseFeatures, ...] = ("unprojected", "penultimate", "mid")


class _Ear(threading.local):
    """Hears what one module gives in this thread; a copy of the module is heard by its own ear alone."""

    wanted: Any = None
    heard: Any = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self.wanted:
            self.heard = output

    def __deepcopy__(self, memo: Any) -> _Ear:
        return self


class TransformerTower(Tower):
    """A tower of blocks over tokens, some of which stand before those of the patches.

    Attributes:
        blocks: in their order, each [B, L, W] -> the same.
        prefix: tokens before those of the patches: CLS, registers.
        rotated: whether the attention turns queries and keys by their positions.
    """

    blocks: Sequence[Any]
    prefix: int
    rotated: bool = False

    def listen(self) -> None:
        """Called once the blocks are there."""
        self._ear = _Ear()
        for block in self.blocks:
            block.register_forward_hook(self._ear)
        self._last = taken_apart(self.blocks[-1])

    @abstractmethod
    def normed(self, tokens: Tensor) -> Tensor:
        """What the final norm makes of tokens [B, n, W] of the last block."""

    @abstractmethod
    def projected(self, tokens: Tensor) -> Tensor:
        """What the projection makes of normed tokens: [B, n, W] -> [B, n, D]."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels W of a token."""

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the patches of an image."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def widest(self) -> int:
        """See `Tower.widest`: the hidden layer of an MLP."""
        layers = (m for m in self.blocks[0].modules() if isinstance(m, nn.Linear))
        cells = self.grid[0] * self.grid[1]
        return max(layer.out_features for layer in layers) * (self.prefix + cells)

    @property
    def variants(self) -> tuple[DenseFeatures, ...]:
        """See `Tower.variants`; what turns queries and keys, or has another attention, has not all."""
        found: list[DenseFeatures] = ["plain"]
        if len(self.blocks) > 1:
            found += _UNPROJECTED
            turned = {"q", "k"} if self.rotated else set()
            found += (
                name
                for name, how in _LAST_BLOCKS.items()
                if self._last is not None and not turned & set(how.pairs)
            )
        return tuple(found)

    def dense_dim(self, features: DenseFeatures) -> int:
        """See `Tower.dense_dim`: D, or W where nothing is projected."""
        return self.width if features in _UNPROJECTED else self.dim

    def cls_and_dense(self, pixels: Tensor, features: DenseFeatures) -> tuple[Tensor, Tensor]:
        """See `Tower.cls_and_dense`; the embedding comes from the same pass."""
        last = len(self.blocks) - 1
        before = {"penultimate": last - 1, "mid": round(2 * (last + 1) / 3) - 1}
        changed = _LAST_BLOCKS.get(features)
        self._ear.wanted = self.blocks[before.get(features, last if changed is None else last - 1)]
        try:
            cls = self.embed(pixels)
        finally:
            heard, self._ear.wanted, self._ear.heard = self._ear.heard, None, None
        tokens: Tensor = heard[0] if isinstance(heard, tuple) else heard
        if features in before:
            return cls, tokens[:, self.prefix :]
        if changed is not None:
            tokens = self._changed(tokens, changed)
        return cls, self.finished(tokens, features)

    def finished(self, tokens: Tensor, features: DenseFeatures) -> Tensor:
        """Patches [B, h w, C] of the tokens of the last block."""
        patches = self.normed(tokens)[:, self.prefix :]
        return patches if features == "unprojected" else self.projected(patches)

    def _changed(self, x: Tensor, how: _LastBlock) -> Tensor:
        """The last block with its attention exchanged: [B, prefix + h w, W] -> the same."""
        assert self._last is not None
        q, k, v = self._last.qkv(self._last.before(x))
        chosen = {"q": q, "k": k, "v": v}
        mixed = torch.zeros_like(v) if how.pairs else v
        for name in how.pairs:
            side = chosen[name]
            scores = side @ side.transpose(-1, -2) / side.shape[-1] ** 0.5
            if how.gaussian:
                near = neighbourhood(self.grid, scores.device, self.prefix)
                scores = scores + near.to(scores.dtype)
            mixed = mixed + scores.softmax(-1) @ v
        out = self._last.out(rearrange(mixed, "b n l c -> b l (n c)"))
        return self._last.rest(x, out) if how.residual else out


def neighbourhood(
    grid: tuple[int, int], device: torch.device | str = "cpu", prefix: int = 1
) -> Tensor:
    """exp(-d^2 / (2 std^2)) with d the distance of two cells; 0 to and from the tokens before them.

    Returns:
        float32 [prefix + h w, prefix + h w].
    """
    cells = torch.cartesian_prod(
        torch.arange(grid[0], device=device), torch.arange(grid[1], device=device)
    ).float()
    squared = (cells[:, None] - cells[None]).square().sum(-1)
    return functional.pad(torch.exp(-squared / (2 * NEIGHBOUR_STD**2)), (prefix, 0, prefix, 0))
