"""Invariant: reading a feature map often costs its gradient one map, whatever its memory layout."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class FeatureMap:
    """A student's feature map F, for objectives that read it several times.

    Left to autograd, every reading would make a gradient as large as F, and all of them would be added
    up one by one. Here the readings form a chain, in the order in which they are asked for: in the
    backward pass each adds its gradient to that of the later ones in place, as part of its matrix
    product. Results and gradients are those of the plain formulas; there are no second derivatives.

    Args:
        features: F, float [B, D, h, w], in any memory layout, which the gradient will have too.

    Attributes:
        tensor: F.
    """

    def __init__(self, features: Float[Tensor, "B D h w"]) -> None:
        self.tensor = features
        self._cells = features.flatten(2)  # [B, D, L], a view of both layouts

    @property
    def height(self) -> int:
        """h, cells of a column."""
        return self.tensor.shape[2]

    @property
    def width(self) -> int:
        """w, cells of a row."""
        return self.tensor.shape[3]

    def products(self, vectors: Float[Tensor, "B K D"]) -> Float[Tensor, "B K L"]:
        """Inner products of every cell with vectors [B, K, D]: [B, K, h * w]."""
        return self._read(_Products, vectors)

    def sums(self, weights: Float[Tensor, "B K L"]) -> Float[Tensor, "B K D"]:
        """Sums of the cells under weights [B, K, h * w], means where these add up to 1: [B, K, D]."""
        return self._read(_Sums, weights)

    def norms(self) -> Float[Tensor, "B 1 L"]:
        """Euclidean length of every cell: [B, 1, h * w]."""
        return self._read(_Norms)

    def _read(self, reading: type[Function], *operands: Tensor) -> Tensor:
        found: Tensor
        found, self._cells = reading.apply(self._cells, *operands)
        return found


class _Products(Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(cells, vectors)
        return torch.bmm(vectors, cells), cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, later: Tensor | None) -> tuple[Any, Any]:
        cells, vectors = ctx.saved_tensors
        if grad is None:
            return later, None
        own = torch.bmm(grad, cells.mT) if ctx.needs_input_grad[1] else None
        return _added(cells, later, vectors, grad), own


class _Sums(Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(cells, weights)
        return torch.bmm(weights, cells.mT), cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, later: Tensor | None) -> tuple[Any, Any]:
        cells, weights = ctx.saved_tensors
        if grad is None:
            return later, None
        own = torch.bmm(grad, cells) if ctx.needs_input_grad[1] else None
        return _added(cells, later, grad, weights), own


class _Norms(Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        norms = cells.norm(dim=1, keepdim=True)
        ctx.save_for_backward(cells, norms)
        return norms, cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, later: Tensor | None) -> Tensor | None:
        cells, norms = ctx.saved_tensors
        if grad is None:
            return later
        scale = torch.where(norms > 0, grad / norms, 0)  # a length has no slope at zero
        return cells * scale if later is None else later.addcmul_(cells, scale)


def _added(cells: Tensor, later: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """`later` + left^T right, [B, D, L] in the layout of `cells`, from [B, K, D] and [B, K, L].

    `later` comes from the next reading of the chain and belongs to nobody else, so it is overwritten.
    """
    if cells.stride(1) == 1:  # cells one after the other, as in channels-last maps
        return _plus(None if later is None else later.mT, right.mT, left).mT
    return _plus(later, left.mT, right)


def _plus(later: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b) if later is None else later.baddbmm_(a, b)
