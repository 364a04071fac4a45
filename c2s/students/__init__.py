"""Segmentation models that can be distilled into, one file per architecture."""

from c2s.students.registry import NAMES, create

__all__ = ["NAMES", "create"]
