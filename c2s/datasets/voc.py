"""PASCAL VOC 2012: 20 classes (15 seen / 5 unseen), background ignored; and with background as a 21st class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from c2s.datasets.descriptor import (
    Descriptor,
    LabelEncoding,
    SplitLayout,
    TestProtocol,
    ids_of,
    names,
    reduced,
)

CLASSES = names("""aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor""")

SPOKEN = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
"""Names as MaskCLIP's prompts have them."""

LISTS = "ImageSets/Segmentation"
FOLDERS = ("SegmentationClass", "SegmentationClassAug")
"""VOC's own masks where there are any, else those of the Semantic Boundaries Dataset."""


def colour(value: int) -> tuple[int, int, int]:
    """RGB of a label value in VOC's colour map: its bits dealt out to the channels, highest first."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (value >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


UNSEEN = "pottedplant, sheep, sofa, train, tvmonitor"


def encoding(values: Mapping[int, int | None]) -> LabelEncoding:
    """VOC's label maps, indices or colours, whose values mean these classes."""
    colours = {colour(v): v for v in (*range(21), 255)}
    return LabelEncoding("index", ".png", values, colours, True)


DESCRIPTOR = Descriptor(
    name="voc",
    short="voc",
    folder="VOCdevkit/VOC2012",
    classes=CLASSES,
    prompts=tuple(SPOKEN.get(name, name) for name in CLASSES),
    unseen=ids_of(UNSEEN, CLASSES),
    splits={
        "train": SplitLayout(
            images=("JPEGImages",),
            labels=FOLDERS,
            lists=((f"{LISTS}/trainaug.txt",), (f"{LISTS}/train.txt", f"{LISTS}/aug.txt")),
            expected=(10582,),
        ),
        "val": SplitLayout(
            images=("JPEGImages",), labels=FOLDERS, lists=((f"{LISTS}/val.txt",),), expected=(1449,)
        ),
    },
    encodings=(encoding(reduced(20)),),
    download=(
        "VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (it unpacks to "
        "VOCdevkit/VOC2012) and, for the augmented training set, benchmark.tgz of the Semantic Boundaries "
        "Dataset from https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours; "
        "then run: c2s data prepare voc"
    ),
)

WITH_BACKGROUND = replace(
    DESCRIPTOR,
    name="voc-bg",
    short="voc-bg",
    classes=("background", *CLASSES),
    prompts=("background", *DESCRIPTOR.prompts),
    names=(("background",), *DESCRIPTOR.names),
    unseen=ids_of(UNSEEN, ("background", *CLASSES)),
    encodings=(encoding({i: i for i in range(21)}),),
    protocol=TestProtocol(background=0),
)
