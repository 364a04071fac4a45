"""Invariant: the trainer asks an online teacher what a cache would have stored, and never imports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from c2s.methods.examples import CutView, Look, TeacherOutput
from c2s_cache.manifest import Manifest

if TYPE_CHECKING:
    from c2s.runs.config import TrainConfig


class TeacherInTheLoop(Protocol):
    """CLIP in the training loop, by the functions that build caches."""

    @property
    def looks(self) -> tuple[Look, ...]:
        """Sides in pixels at which it looks at a view, and how; loader processes cut the views so."""

    def answer(self, views: Sequence[CutView]) -> list[TeacherOutput]:
        """What it says of each view of a batch."""


TeacherFactory = Callable[["TrainConfig", Manifest], TeacherInTheLoop]
"""Loads the online teacher of a cache; the command line brings one that needs the build extra."""
