"""Data sets as the field uses them: class lists, seen/unseen splits, layouts. Light: no torch."""

from c2s.datasets.descriptor import Descriptor, LabelForm, Protocol, SplitLayout
from c2s.datasets.folder import FolderSplit
from c2s.datasets.registry import NAMES, Dataset, load_dataset
from c2s.datasets.shapes import ShapesSplit
from c2s.datasets.split import Item, Split

__all__ = [
    "NAMES",
    "Dataset",
    "Descriptor",
    "FolderSplit",
    "Item",
    "LabelForm",
    "Protocol",
    "ShapesSplit",
    "Split",
    "SplitLayout",
    "load_dataset",
]
