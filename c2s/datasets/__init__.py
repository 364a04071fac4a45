"""Data sets as the field uses them: class lists, seen/unseen splits, layouts. Light: no torch."""

from c2s.datasets.descriptor import Descriptor, LabelForm, SplitLayout
from c2s.datasets.folder import FolderSplit, Item
from c2s.datasets.registry import NAMES, Dataset, load_dataset
from c2s.datasets.shapes import ShapesSplit

__all__ = [
    "NAMES",
    "Dataset",
    "Descriptor",
    "FolderSplit",
    "Item",
    "LabelForm",
    "ShapesSplit",
    "SplitLayout",
    "load_dataset",
]
