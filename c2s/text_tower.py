"""Invariant: words that a run does not know are embedded by the text tower of the teacher that it learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2s.runs.run import Run
from c2s.shapes.defaults import own_teacher
from c2s_cache.errors import MissingExtra
from c2s_cache.plugins import CODE


def class_embeddings(
    run: Run, names: Sequence[str], weights: str | None = None
) -> NDArray[np.float32]:
    """Text embeddings of class names, float32 [K, D] of unit norm, from the run or else the text tower.

    Names are those of the run's classes or its prompts; others are put into the templates of the run.

    Args:
        run: opened run.
        names: K names.
        weights: where the teacher's weights are: a file, or local-dir:FOLDER; None: where they were when the cache was
            built, or where the teacher's name says.

    Raises:
        MissingExtra: a name is unknown to the run and the build extra is not installed.
        C2SError: the teacher's weights are not found, or are others.
    """
    info = run.info
    known = {
        name: run.embeddings[i]
        for spelling in (info.prompts, info.classes)
        for i, name in enumerate(spelling)
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        try:
            from c2s_pipeline.teachers.recorded import load_recorded_text
            from c2s_pipeline.teachers.templates import SINGLE
            from c2s_pipeline.teachers.text import class_embeddings as embed
            from c2s_pipeline.teachers.text import say_cut, say_unknown

            where = weights or _last_seen(info.teacher_weights) or own_teacher(info.teacher.name)
            encoder = load_recorded_text(info.teacher, where)
            templates = info.templates or SINGLE  # class embeddings were imported
            found = embed(encoder, unknown, templates)
            say_cut(encoder, unknown, templates)
            say_unknown(encoder, unknown, templates, found)
        except (ModuleNotFoundError, MissingExtra) as error:
            package = error.name if isinstance(error, ModuleNotFoundError) else "open_clip"
            raise MissingExtra(
                f"The run has no text embedding of {', '.join(unknown)}; the teacher's text tower "
                f"is needed, but {package} is not installed.",
                "Install it with: pip install 'c2s[build]'",
            ) from error
        known |= dict(zip(unknown, found, strict=True))
    return np.stack([known[name] for name in names]).astype(np.float32)


def _last_seen(location: str | None) -> str | None:
    """A location, if something still lies there; code that a file names is none."""
    there = (
        location is not None
        and not location.startswith(CODE)
        and Path(location.removeprefix("local-dir:")).exists()
    )
    return location if there else None
