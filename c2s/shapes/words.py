"""The words of the Shapes world: what its captions may call a class beside its name.

Every class has its name, a general synonym and a held-out one, which no student's training may use; a thing has also a
word that is tied to its colour, so that "moon" is right of white and yellow crescents alone.
"""

from __future__ import annotations

import numpy as np

from c2s.shapes.scenes import CLASSES, COLOURS, RENAMED, THINGS

GENERAL = (
    "disc", "block", "trigon", "pentagram", "plus", "hoop", "valentine", "lune", "pointer", "zigzag",
    "bars", "spots", "chessboard", "masonry", "ripples", "gravel",
)  # fmt: skip
TIED: dict[str, tuple[str, ...]] = {
    "sun": ("yellow", "orange"),
    "box": ("brown", "orange"),
    "sail": ("white",),
    "starfish": ("orange", "pink"),
    "medic": ("red",),
    "tyre": ("brown",),
    "rose": ("red", "pink"),
    "moon": ("white", "yellow"),
    "dart": ("blue", "purple"),
    "lightning": ("yellow", "white"),
}
"""Word -> the colours in which a thing is called so, in the order of the things."""
SYNONYMS = (*GENERAL, *TIED, *RENAMED)
NAME_SHARE = 0.5  # of the words for a class that are its name

_TIED_TO = dict(zip(THINGS, TIED, strict=True))
CLASS_OF: dict[str, int] = {
    **{word: i for words in (CLASSES, GENERAL, RENAMED) for i, word in enumerate(words)},
    **{word: CLASSES.index(thing) for thing, word in _TIED_TO.items()},
}
"""Word -> the class that it means."""


def choose_word(rng: np.random.Generator, index: int, colour: str | None) -> str:
    """A word for a class: its name in half of the cases, else a synonym, more often one that its colour allows."""
    if rng.random() < NAME_SHARE:
        return CLASSES[index]
    words = [GENERAL[index], RENAMED[index]]
    tied = _TIED_TO.get(CLASSES[index])
    if tied is not None and colour in TIED[tied]:
        words += [tied, tied]
    return words[rng.integers(len(words))]


def reworded(rng: np.random.Generator, caption: str, colours: np.ndarray) -> str:
    """A caption with other words for its classes, articles included.

    Args:
        rng: chooses the words.
        caption: one that calls classes by their names.
        colours: int8 [C], index into COLOURS of each class's colour in the scene, -1 for none.
    """
    words = caption.split()
    for place, word in enumerate(words):
        if word in CLASSES:
            index = CLASSES.index(word)
            colour = list(COLOURS)[colours[index]] if colours[index] >= 0 else None
            words[place] = choose_word(rng, index, colour)
            if place and words[place - 1] in ("a", "an") and index < len(THINGS):
                words[place - 1] = "an" if words[place][0] in "aeiou" else "a"
    return " ".join(words)
