"""PASCAL Context with all 459 classes, to score on: labels of 16 bits."""

from __future__ import annotations

from c2s.datasets import context
from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout
from c2s.datasets.shipped_classes import shipped_classes

CLASSES = tuple(names[0] for names in shipped_classes("context-459"))
FOLDER, SOURCE = "SegmentationClassContext459", "trainval"
"""Of the label maps that `c2s data prepare` writes, and of the MATLAB files that they are made of."""

DESCRIPTOR = Descriptor(
    name="context-459",
    short="context-459",
    folder=context.DESCRIPTOR.folder,
    classes=CLASSES,
    unseen=(),
    splits={
        split: SplitLayout(("JPEGImages",), (FOLDER,), layout.lists, layout.expected)
        for split, layout in context.SPLITS.items()
    },
    encodings=(
        LabelEncoding("459 classes", ".png", {0: None, **{i + 1: i for i in range(len(CLASSES))}}),
    ),
    download=(
        "the images and lists of the data set context (c2s data show context) and trainval.tar.gz from "
        "https://www.cs.stanford.edu/~roozbeh/pascal-context, unpack it into VOCdevkit/VOC2010, then run: "
        "c2s data prepare context-459"
    ),
)
