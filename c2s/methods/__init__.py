"""Objectives that distil CLIP into a student, one folder per paper."""

from c2s.methods.base import Facts, Method, MethodConfig
from c2s.methods.batch import Batch

__all__ = ["Batch", "Facts", "Method", "MethodConfig"]
