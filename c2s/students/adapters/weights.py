"""Pretrained weights of other libraries' models: by the library's own names, or from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeGuard

from torch import Tensor, nn

from c2s.students.adapters.classifier import reason
from c2s_cache.errors import C2SError, ConfigError
from c2s_cache.hub import hub

PRETRAINED = ("pretrained", "imagenet")
"""Names of the weights that a library itself has for a model's backbone."""


def fitting(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The tensors of a checkpoint that belong to a module.

    Args:
        own: the module's state; tensors may be on the meta device.
        state: the checkpoint's, perhaps of a larger model, the module's names after a common prefix.
        source: of the checkpoint, for messages.

    Returns:
        Every tensor of `own` but the counters of batch norm, which old checkpoints lack.

    Raises:
        ConfigError: some are missing or of another shape; the first is named.
    """
    wanted = {k: v for k, v in own.items() if not k.endswith("num_batches_tracked")}
    first = next(iter(wanted))
    prefixes = {k.removesuffix(first) for k in state if k == first or k.endswith(f".{first}")}

    def misfits(prefix: str) -> list[str]:
        shapes = {k: v.shape for k, v in state.items()}
        return [k for k, v in wanted.items() if shapes.get(prefix + k) != v.shape]

    prefix = min(sorted(prefixes), key=lambda p: len(misfits(p)), default="")
    wrong = misfits(prefix)
    if wrong:
        got = state.get(prefix + wrong[0])
        raise ConfigError(
            f"Weights {source} do not fit: {len(wrong)} of {len(wanted)} tensors differ, first "
            f"{wrong[0]} (expected {tuple(wanted[wrong[0]].shape)}, got "
            f"{'nothing' if got is None else tuple(got.shape)}).",
            "Choose weights of the same architecture.",
        )
    return {k: state[prefix + k] for k in wanted}


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str, but: str = "") -> None:
    """Fill a module from a checkpoint, all but the layer named `but`.

    Raises:
        ConfigError: as for `fitting`.
    """
    own = module.state_dict()
    kept = {k: v for k, v in own.items() if not but or not k.startswith(f"{but}.")}
    module.load_state_dict({**own, **fitting(kept, state, source)})


def is_file(weights: str | None) -> TypeGuard[str]:
    """Whether weights are named by a file that exists."""
    return weights is not None and Path(weights).is_file()


@contextmanager
def making(model: str, weights: str | None) -> Iterator[None]:
    """Turn whatever a library raises while it makes a model and fetches weights into one sentence."""
    try:
        with nullcontext() if weights is None or Path(weights).exists() else hub():
            yield
    except C2SError:
        raise
    except Exception as error:  # libraries, and what they download with, fail in many ways
        with_ = "" if weights is None else f" with weights {weights!r}"
        raise ConfigError(f"{model} cannot be made{with_}: {reason(error)}") from error
