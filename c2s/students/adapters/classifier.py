"""Invariant: the classifier is the layer that autograd saw make the output; names decide nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from c2s_cache.errors import ConfigError

RESIZING = re.compile(
    r"Upsample|View|UnsafeView|ReshapeAlias|Permute|Transpose|Clone|Alias|ToCopy|Squeeze|Unsqueeze"
)
"""Autograd's names of what may follow the classifier: it moves or resizes cells, and mixes no channels."""
ACTIVATIONS = re.compile(r"Softmax|LogSoftmax|Sigmoid|LogSigmoid|Relu|Tanh|Hardtanh|Gelu|Silu|Elu")


def find_classifier(model: nn.Module, images: Tensor, what: str) -> str:
    """Dotted name of the layer whose outputs, resized at most, are the model's output.

    Args:
        model: in evaluation mode; its parameters may be on the meta device.
        images: float [B, 3, H, W] that the model takes.
        what: name of the model, for messages.

    Returns:
        Name of an ungrouped `nn.Conv2d` or an `nn.Linear` with one output per channel of the model's.

    Raises:
        ConfigError: the model does not run, its output is no map of classes, or no such layer makes it.
    """
    # Aliases of the parameters that require a gradient, whatever the model has frozen.
    parameters = {k: p.detach().requires_grad_() for k, p in model.named_parameters()}
    with torch.enable_grad(), running(what, images):
        output = class_map(functional_call(model, parameters, (images,)), what)
    name = _behind(output, {id(p): k for k, p in parameters.items()}, what)
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise refusal(what, f"its last layer {name} is a {type(layer).__name__}")
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise refusal(what, f"its last layer {name} is a Conv2d of {layer.groups} groups")
    if outputs(layer) != output.shape[1]:
        raise refusal(
            what,
            f"its last layer {name} has {outputs(layer)} outputs for {output.shape[1]} channels",
        )
    return name


def _behind(output: Tensor, names: dict[int, str], what: str) -> str:
    """Name of the module whose weight made `output`, walking back through what resizes it."""
    node, biases = output.grad_fn, []
    while node is not None:
        kind = re.sub(r"Backward\d*$", "", node.name())
        inputs = [(n, _leaf(n, names)) for n, _ in node.next_functions if n is not None]
        inner = [n for n, leaf in inputs if leaf is None]
        leaves = [leaf for _, leaf in inputs if leaf is not None]
        if kind in ("Convolution", "Addmm", "Mm") and leaves:
            modules = {name.rpartition(".")[0] for name in leaves + biases}
            if len(modules) == 1:
                return modules.pop()
        if kind == "Add" and len(inner) == len(leaves) == 1:
            biases += (
                leaves  # a linear layer on tokens that do not lie in one block adds its bias so
            )
        elif len(inner) > 1:
            raise refusal(what, f"its output joins several layers ({kind})")
        elif ACTIVATIONS.match(kind):
            raise refusal(what, f"an activation ({kind}) follows its last layer")
        elif not RESIZING.match(kind):
            raise refusal(what, f"its output comes from {kind}")
        node = inner[0]
    raise refusal(what, "no layer with weights makes its output")


def _leaf(node: Any, names: dict[int, str]) -> str | None:
    """Name of the parameter that `node` passes on, transposed at most; None for anything else."""
    while node is not None and not hasattr(node, "variable"):
        if node.name() not in ("TBackward0", "TransposeBackward0", "PermuteBackward0"):
            return None
        node = node.next_functions[0][0]
    return None if node is None else names.get(id(node.variable))


def class_map(output: object, what: str) -> Tensor:
    """The [B, C, h, w] in what a model returns: itself, or the usual entry of the libraries' containers.

    Raises:
        ConfigError: there is none.
    """
    if hasattr(output, "masks_queries_logits") or hasattr(output, "pred_masks"):
        raise refusal(what, "it predicts masks of queries, not a class for every cell")
    found = output
    if isinstance(output, dict):
        found = output.get("out", output.get("logits"))
    if not isinstance(found, Tensor):
        raise refusal(what, f"it returns a {type(output).__name__}, not one map of classes")
    if found.ndim != 4:
        raise refusal(what, f"its output has the shape {list(found.shape)}, not [B, C, h, w]")
    return found


def widened(layer: nn.Module, dim: int) -> nn.Module:
    """A layer like a convolution or linear layer with `dim` outputs; the same one if it has them already."""
    if outputs(layer) == dim:
        return layer
    place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, dim, bias, **place)
    assert isinstance(layer, nn.Conv2d)
    return nn.Conv2d(
        layer.in_channels,
        dim,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=bias,
        padding_mode=layer.padding_mode,
        **place,
    )


def outputs(layer: nn.Module) -> int:
    """Number of outputs of a convolution or linear layer."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


@contextmanager
def running(what: str, images: Tensor) -> Iterator[None]:
    """Turn whatever a foreign model raises into one sentence."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # any code may run here
        size = " x ".join(str(n) for n in images.shape[-2:])
        raise ConfigError(f"{what} does not run on images of {size}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """First line of an error's message, or its type."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    lines = str(text).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def refusal(what: str, why: str) -> ConfigError:
    """The error for a model that cannot be adapted."""
    return ConfigError(
        f"{what} cannot be adapted: {why}.",
        "The last layer must be a convolution or linear layer that nothing but resizing follows.",
    )
