"""Invariant: what C2S reads of a cache is named here, and nothing else of it is read."""

from __future__ import annotations

from c2s.methods.examples import PIXELS

GLOBAL_CLS, GRID = "teacher/global_cls", "masks/grid"
REGION_CLS, REGION_ID, REGION_AREA = "regions/cls", "regions/id", "regions/area"
IGNORED = "labels/ignored"
TEACHER_OUTPUT: tuple[str, ...] = (GLOBAL_CLS, GRID, REGION_CLS, REGION_ID, REGION_AREA)
"""What the teacher says of a view."""
TRAINING: tuple[str, ...] = (*PIXELS, *TEACHER_OUTPUT)
TRANSDUCTIVE: tuple[str, ...] = (*TRAINING, IGNORED)
"""Of a self-training: which pixels the data set itself ignores tells pixels of unseen classes from pixels
of none, which inductive training must not know."""
