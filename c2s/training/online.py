"""Invariant: the trainer asks an online teacher what a cache would have stored, and never imports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from c2s_cache.manifest import Manifest

if TYPE_CHECKING:
    from c2s.runs.config import TrainConfig
    from c2s.training.view import Replay


@dataclass(frozen=True)
class Answer:
    """What the teacher says of one view; fields as in a cached `Sample`."""

    grid: NDArray[np.uint8]
    global_cls: NDArray[np.float16]
    region_cls: NDArray[np.float16]
    region_ids: NDArray[np.int16]
    region_area: NDArray[np.float32]


class OnlineTeacher(Protocol):
    """CLIP in the training loop, by the functions that build caches."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels at which it looks at a view; loader processes cut the views to them."""

    def answer(self, views: Sequence[Replay]) -> list[Answer]:
        """What it says of each view of a batch."""


TeacherFactory = Callable[["TrainConfig", Manifest], OnlineTeacher]
"""Loads the online teacher of a cache; the command line brings one that needs the build extra."""
