"""Invariant: imported text embeddings are one unit vector per class, in class order, of the teacher's width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ConfigError
from c2s_cache.text_file import read_text
from c2s_pipeline.teachers.base import Teacher
from c2s_pipeline.teachers.clip_names import RANDOM
from c2s_pipeline.teachers.text import class_embeddings

MARGIN = 0.05
"""By how much a row may be nearer to another class than to its own. In the right order, CLIP's embeddings
of the 171 names of COCO-Stuff under one template set are each nearest to their own under another, by
0.03 at least; of two exchanged rows, each is off by about 0.1."""

KINSHIP = 0.5
"""Median cosine of a row with the teacher's own of its class, below which it is another model's."""

TEMPLATE_PAIR = ("a photo of a {}", "There is a {} in the scene.")
"""Two sentences in which a trained text tower knows a class again."""

PROBES = (
    *("cat", "car", "tree", "house", "bread", "river", "shoe", "book"),
    *("clock", "guitar", "horse", "bicycle", "chair", "bottle", "mountain", "flower"),
)
"""Words by which a trained text tower is known where the classes are few."""

SEPARATION = 0.1
"""By how much a word must be nearer to itself in another sentence than to other words there, in the median.
CLIP ViT-B/16 gives 0.20 for COCO-Stuff's names (0.11 to 0.31 for 98 % of all pairs); random weights of
ViT-B/16 and ViT-S/32 0.04 and 0.02 (99 % of all pairs below 0.08)."""


def knows_words(own: NDArray[np.float32], again: NDArray[np.float32]) -> bool:
    """Whether a text tower is trained, by what it makes of the same words in two sentences.

    Args:
        own: float32 [C, D], unit norm, words by rows.
        again: float32 [C, D], unit norm: the same words in another sentence.
    """
    if len(own) < 2:
        return False
    cosines = again @ own.T
    others = cosines[~np.eye(len(own), dtype=bool)]
    return bool(np.median(np.diag(cosines)) - np.median(others) > SEPARATION)


def load_embeddings(file: Path, classes: Sequence[str], dim: int) -> NDArray[np.float32]:
    """Text embeddings from a .npy file, one row per class.

    Beside it may lie a file of the same name that ends in .txt, with the name of each row's class on a
    line of its own; it is then checked.

    Args:
        file: .npy, floating point [len(classes), dim].
        classes: class names in id order.
        dim: width D of the joint image-text space.

    Returns:
        float32 [len(classes), dim], unit norm.

    Raises:
        ConfigError: the file cannot be read, or has another shape, order or content.
    """
    try:
        rows = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"text embeddings {file} cannot be read ({reason}).") from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f":
        raise ConfigError(f"text embeddings {file}: expected one .npy array of floating point.")
    if rows.shape != (len(classes), dim):
        raise ConfigError(
            f"text embeddings {file}: expected shape {(len(classes), dim)} (classes, width of the "
            f"teacher's joint space), got {rows.shape}."
        )
    _check_names(file.with_suffix(".txt"), classes)
    wide = rows.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ConfigError(
            f"text embeddings {file}: row {row} ({classes[row]}) is zero or not finite."
        )
    unit: NDArray[np.float32] = wide / norms
    return unit


def check_rows(
    imported: NDArray[np.float32],
    teacher: Teacher,
    names: Sequence[str],
    classes: Sequence[str],
    file: Path,
) -> None:
    """Refuse imported rows that are another class's or another model's, if the teacher is trained.

    Args:
        imported: float32 [C, D], unit norm.
        teacher: whose text tower is asked.
        names: what it is asked for each class.
        classes: class names in id order.
        file: where the rows come from, for messages.

    Raises:
        ConfigError: see `check_order`.
    """
    if teacher.spec.pretrained == RANDOM:
        return
    count = len(imported)
    own, again = (class_embeddings(teacher.text, (*names, *PROBES), [t]) for t in TEMPLATE_PAIR)
    if knows_words(own[:count], again[:count]) or knows_words(own[count:], again[count:]):
        check_order(imported, own[:count], again[:count], classes, file)


def check_order(
    imported: NDArray[np.float32],
    own: NDArray[np.float32],
    again: NDArray[np.float32],
    classes: Sequence[str],
    file: Path,
) -> None:
    """Refuse imported rows that are another class's or another model's, by the teacher's own embeddings.

    Only classes that the teacher knows again in another sentence count, and nothing is refused where
    those are fewer than half: it was not trained on such words.

    Args:
        imported: float32 [C, D], unit norm.
        own: float32 [C, D], unit norm: the teacher's own embeddings of the classes in one sentence.
        again: float32 [C, D], unit norm: the same in another sentence.
        classes: class names in id order.
        file: where the rows come from, for messages.

    Raises:
        ConfigError: names the first row that is another class's.
    """
    unchecked = "if the rows are right: --unchecked-text"
    known = (again @ own.T).argmax(1) == np.arange(len(own))
    if known.mean() < 0.5:
        return
    likeness = imported @ own.T
    nearest, best = likeness.argmax(1), likeness.max(1)
    if np.median(best) < KINSHIP:
        raise ConfigError(
            f"text embeddings {file}: the rows resemble none of the teacher's own (median cosine "
            f"{np.median(best):.2f}); they come from another CLIP.",
            f"Name the teacher they were made with (--teacher, --pretrained), or {unchecked}.",
        )
    wrong = np.flatnonzero(known & (best - np.diag(likeness) > MARGIN))
    if len(wrong):
        row = int(wrong[0])
        raise ConfigError(
            f"text embeddings {file}: row {row} should be {classes[row]!r}, but the teacher takes it for "
            f"{classes[nearest[row]]!r} ({len(wrong)} of {len(classes)} rows are off).",
            f"Rows must be in class order (c2s data show NAME), or {unchecked}.",
        )


def _check_names(file: Path, classes: Sequence[str]) -> None:
    if not file.is_file():
        return
    text = read_text(file, "the names of text embeddings", error=ConfigError)
    named = [line.strip() for line in text.splitlines() if line.strip()]
    if named == list(classes):
        return
    for row, class_name in enumerate(classes):
        if row >= len(named) or named[row] != class_name:
            got = repr(named[row]) if row < len(named) else "nothing"
            raise ConfigError(f"{file}: row {row} should be {class_name!r}, got {got}.")
    raise ConfigError(f"{file}: {len(named)} names for {len(classes)} classes.")
