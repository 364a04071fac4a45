"""Invariant: what label maps annotate is counted when they are read, and said in the same words wherever it matters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from c2s_cache import Cache, ConfigError

MUCH = 0.001
"""Share of pixels of no class from which on they may be those of a class that nobody named."""
SHOWN = 8
FEW = 3
"""Classes without a pixel of which 255 may be one that nobody named."""
PLACEHOLDER = "class {}"
"""Name that a class has until somebody says what it is."""
NOTHING = ("void", "unlabelled", "unlabeled", "ignore", "ignored", "null", "none", "unknown")
"""Names of classes that may say that a pixel has no label."""


@dataclass(frozen=True)
class Annotation:
    """What the label maps of a cache annotate.

    Attributes:
        pixels: by class id, of the classes that training sees.
        ignored: pixels of no class.
    """

    pixels: Mapping[int, int]
    ignored: int


def read_annotation(cache: Cache) -> Annotation | None:
    """What the receipts of a cache say of its label maps; None: it has none."""
    found = [r.notes for (stage, _), r in cache.receipts.items() if stage == "labels"]
    if not found or not all(found):
        return None
    pixels: dict[int, int] = {}
    for notes in found:
        for class_id, count in notes["pixels"].items():
            pixels[int(class_id)] = pixels.get(int(class_id), 0) + count
    return Annotation(pixels, sum(notes["ignored"] for notes in found))


def require_annotation(cache: Cache, stages: Collection[str]) -> None:
    """Refuse a cache whose label maps annotate nothing, where they are among the stages that a method reads.

    Raises:
        ConfigError: they do not annotate a pixel of a class that training sees.
    """
    found = read_annotation(cache) if "labels" in stages else None
    if found is not None and not any(found.pixels.values()):
        raise ConfigError(
            f"no label map of {cache.address} annotates a pixel of a seen class, and the method learns from these.",
            "See what the label maps hold: c2s data check NAME",
        )


def never_seen(
    classes: Sequence[str], seen: Collection[int], pixels: Mapping[int, int], ignored: int
) -> str | None:
    """That classes have no pixel, as a sentence; None: every one has.

    Args:
        classes: names by id.
        seen: ids that count.
        pixels: by class id.
        ignored: pixels of no class.
    """
    absent = [classes[i] for i in sorted(seen) if not pixels.get(i)]
    if not absent:
        return None
    more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
    which = "1 class has" if len(absent) == 1 else f"{len(absent)} classes have"
    said = f"{which} no pixel: {', '.join(absent[:SHOWN])}{more}"
    share = ignored / max(1, ignored + sum(pixels.values()))
    if share < MUCH:
        return f"{said}."
    said += f"; and {100 * share:.1f} % of the pixels are of no class (255, or `ignore:`)."
    if len(absent) > FEW:
        return said  # 255 is at most one of them: there are few photos, or many classes
    which = "it, say so" if len(absent) == 1 else "one of them, say which"
    name = absent[0] if len(absent) == 1 else "NAME"
    return f"{said} If 255 is {which} in classes.yaml: 255: {name}"


def unnamed(classes: Sequence[str]) -> str | None:
    """That classes are called by their number, as a sentence; None: none is."""
    found = [name for name in classes if re.fullmatch(PLACEHOLDER.format(r"\d+"), name)]
    if not found:
        return None
    return (
        f"{len(found)} of {len(classes)} classes are called by a number, such as {found[0]!r}, which says nothing "
        "to the text tower: write what they show."
    )


def no_label(classes: Sequence[str]) -> str | None:
    """That classes may be none by their names, as a sentence; None: none may."""
    found = [name for name in classes if name.strip().lower() in NOTHING]
    if not found:
        return None
    return (
        f"{found[0]!r} is learnt as a class, by that word. If it means 'no label', write in classes.yaml: "
        "ignore: [its mask value], counted from 0 where `classes:` is a list"
    )


def alike(classes: Sequence[str]) -> str | None:
    """That two classes differ in upper and lower case alone, as a sentence; None: none do."""
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            return (
                f"{other!r} and {name!r} differ in upper and lower case alone, which most text towers do not read: a "
                "build refuses what its teacher cannot tell apart."
            )
    return None
