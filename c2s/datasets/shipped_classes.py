"""Long class lists, which are shipped as files: a class a line, its names separated by bars."""

from __future__ import annotations

from pathlib import Path

from c2s.class_list import FILE, Names, class_list

FOLDER = Path(__file__).parent / "classes"


def shipped_classes(dataset: str) -> Names:
    """Names of every class, in id order; a name stands for one class alone."""
    return class_list(f"{FILE}{FOLDER / dataset}.txt", dataset)
