"""Data sets of three noisy images with the classes of the tiny cache, and of two images with others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from c2s.datasets import descriptor

EVAL = ("--limit", 2, "--device", "cpu", "--mode", "whole", "--json")
"""Options of a scoring that takes a second."""


@dataclass
class Item:
    id: str
    classes: int = 6

    def read(self):
        rng = np.random.default_rng(int(self.id))
        labels = rng.integers(0, self.classes, (40, 50)).astype(np.uint8)
        return rng.integers(0, 256, (40, 50, 3)).astype(np.uint8), labels


class Tiny:
    name = "tiny"
    protocol = descriptor.TestProtocol(view_size=32, stride=27, short_side=32, background=0)
    classes = ("sky", "grass", "cat", "cow", "road", "tree")
    unseen = (3, 5)

    prompts = ("the sky", *classes[1:])

    def split(self, name):
        return [Item("0"), Item("1"), Item("2")]


class Other(Tiny):
    """Another data set: two classes of the run, one that it does not know."""

    name = "other"
    protocol = descriptor.TestProtocol(view_size=32, stride=27, short_side=32)
    classes = prompts = ("cat", "cow", "zebra")
    names = (("cat",), ("cow",), ("zebra",))

    def split(self, name):
        return [Item("0", 3), Item("1", 3)]
