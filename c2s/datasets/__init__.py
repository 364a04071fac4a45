"""Data sets as the field uses them: class lists, seen/unseen splits, layouts. Light: no torch."""

from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout, TestProtocol
from c2s.datasets.folder import FolderSplit
from c2s.datasets.registry import NAMES, Dataset, load_dataset
from c2s.datasets.shapes import ShapesSplit
from c2s.datasets.split import LabelledImage, Split

__all__ = [
    "NAMES",
    "Dataset",
    "Descriptor",
    "FolderSplit",
    "LabelEncoding",
    "LabelledImage",
    "ShapesSplit",
    "Split",
    "SplitLayout",
    "TestProtocol",
    "load_dataset",
]
