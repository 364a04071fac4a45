"""Segmentation models that can be distilled into, one file per architecture."""

from typing import TYPE_CHECKING, Any

from c2s.students.registry import NAMES, create

if TYPE_CHECKING:
    from c2s.students.adapters import adapt

__all__ = ["NAMES", "adapt", "create"]


def __getattr__(name: str) -> Any:
    if name == "adapt":  # only now: it needs torch, names of students do not
        from c2s.students.adapters import adapt

        return adapt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
