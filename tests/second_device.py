"""A device beside the CPU, for tests on machines without a GPU: real values under a device of another name.

Tensors of the second device say that they are on "meta", but hold values, in the CPU's memory. What a GPU
would refuse is refused: operations between tensors of both devices (single values and copies aside), and
`numpy()`. What would make the host wait for a GPU is counted.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
DEVICES = [NAME, pytest.param("cuda", marks=pytest.mark.gpu)]
"""Of tests that compare another device with the CPU: this one, and a GPU where there is one."""
FROM_DATA = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}
WAITS = {
    "item",
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "bincount",
}
WAITS |= {"_unique2", "unique_dim", "unique_consecutive"}
"""Operations for whose result the host needs values."""


class OtherDevice(Exception):
    """Tensors of two devices met in one operation."""


class There(torch.Tensor):
    """A tensor of the second device."""

    is_meta = False  # libraries give tensors without values for those that say so

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME),
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"There({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, None)


class _Mode(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, self.waits)


class _FromData(TorchFunctionMode):
    """`torch.tensor` and the like make tensors of "meta" without values, beneath every dispatch."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.new_tensor and "device" not in kwargs:
            kwargs["device"] = args[0].device
        where = kwargs.get("device")
        if function in FROM_DATA and where is not None and torch.device(where).type == NAME:
            data = args[1] if function is torch.Tensor.new_tensor else args[0]
            make = torch.as_tensor if function is torch.as_tensor else torch.tensor
            kwargs["device"] = "cpu"
            if function is torch.Tensor.new_tensor:
                kwargs.setdefault("dtype", args[0].dtype)
            return make(data, **kwargs).to(NAME)
        return function(*args, **kwargs)


@contextmanager
def second_device():
    """Within it, the device named by NAME holds values.

    Yields:
        Counter of the times the host waited, by operation.
    """
    autocast = torch.autocast

    def known(kind, *args, **kwargs):
        return autocast("cpu" if kind == NAME else kind, *args, **kwargs)

    with mock.patch.object(torch, "autocast", known), _FromData(), _Mode() as mode:
        yield mode.waits


@contextmanager
def other_device(name):
    """Within it, the device holds values: the second device, or a GPU that computes in float32.

    Yields:
        Counter of the times the host waited; nothing is counted on a GPU.
    """
    if name == NAME:
        with second_device() as waits:
            yield waits
        return
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield Counter()


def here(tensor):
    """The tensor, on the CPU."""
    return tensor.held if isinstance(tensor, There) else tensor.cpu()


def is_there(tensor):
    """Whether a tensor lies on the other device."""
    return isinstance(tensor, There) or tensor.is_cuda


def near(name, rtol=1e-4, atol=1e-5):
    """Tolerances: a GPU adds in another order, and steps of Adam amplify that."""
    return (
        {"rtol": rtol, "atol": atol} if name == NAME else {"rtol": 100 * rtol, "atol": 100 * atol}
    )


def _run(function, args, kwargs, waits):
    name = function.overloadpacket.__name__
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, There)]
    here = [t for t in tensors if not isinstance(t, There) and t.dim() > 0]
    if name == "_has_compatible_shallow_copy_type":
        return len(there) in (0, 2)
    target = kwargs.get("device")
    on = there if target is None else torch.device(target).type == NAME
    if name not in ("_to_copy", "copy_") and there and here:
        raise OtherDevice(f"{function}: a tensor of shape {tuple(here[0].shape)} is on the CPU")
    if waits is not None and there:
        masked = name in ("index", "index_put_", "index_put") and any(
            t is not None and t.dtype == torch.bool for t in args[1]
        )
        back = (name == "_to_copy" and target is not None and not on) or (name == "copy_" and here)
        if name in WAITS or masked or back:
            waits[name] += 1
    bare_args, bare_kwargs = tree_map(_held, (args, kwargs))
    if target is not None:
        bare_kwargs["device"] = torch.device("cpu")
    out = function(*bare_args, **bare_kwargs)
    if function._schema.is_mutable:
        return _written(function, args, kwargs, out, on)
    return tree_map(lambda x: There(x) if isinstance(x, torch.Tensor) else x, out) if on else out


def _written(function, args, kwargs, out, on):
    """What an operation returns that writes into an argument: that argument, where it returns it at all."""
    if not isinstance(out, torch.Tensor):
        return out if out is None else type(out)(args[0]) if isinstance(out, (list, tuple)) else out
    named = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | kwargs
    for argument in function._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            return named[argument.name]
    return There(out) if on else out


def _held(value):
    return value.held if isinstance(value, There) else value
