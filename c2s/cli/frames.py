"""Frames that go through a student together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from c2s.runs.run import Run


def check_frames(run: Run) -> None:
    """Refuse frames that are to go together where nothing can follow a thing.

    Raises:
        ConfigError: the run's student has no queries.
    """
    from c2s.students.query import QueryStudent

    if not isinstance(run.student, QueryStudent):
        raise ConfigError(
            f"{run.config.student} has no queries that could follow a thing: --frames is for students such as "
            "mask2former."
        )
