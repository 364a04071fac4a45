"""Invariant: a run goes on as it was configured; what may differ is a list, and whatever else does is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INDIFFERENT = frozenset(
    {
        *("cache", "runs", "name", "self_train", "teacher_weights", "validation.root"),  # places
        *(
            "workers",
            "view_cache_gib",
            "accelerator",
            "compile",
            "channels_last",
            "deterministic",
        ),  # the machine
        *("log_every", "checkpoint_every", "loggers", "proposed"),  # what is written down
    }
)
"""Settings that decide nothing of what is learnt, up to the rounding of another machine."""

CHANGEABLE = ("iterations", "lr", "precision")
"""Settings that act from the checkpoint on. Iterations can only become more."""


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Settings that decide what is learnt and are not alike, by dotted name.

    Args:
        before, now: configurations as JSON values.
        prefix: of the names.

    Returns:
        (before, now) of each; a setting that only one version of the program knows is none.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in before.keys() & now.keys():
        old, new, name = before[key], now[key], f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differences(old, new, f"{name}.")
        elif old != new and name not in INDIFFERENT:
            found[name] = (old, new)
    return dict(sorted(found.items()))


def refused(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Those of the differences with which a run does not go on."""
    return [
        key
        for key, (old, new) in changes.items()
        if key not in CHANGEABLE or (key == "iterations" and (new is None or new < old))
    ]


def listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """The differences as text: "lr 6e-05 -> 0.001, ..."."""
    return ", ".join(f"{key} {_text(a)} -> {_text(b)}" for key, (a, b) in changes.items())


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
