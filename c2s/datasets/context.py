"""PASCAL Context: 59 classes (49 seen / 10 unseen), and the same with background as a 60th, seen class."""

from __future__ import annotations

from c2s.datasets.descriptor import (
    Descriptor,
    LabelEncoding,
    SplitLayout,
    TestProtocol,
    ids_of,
    names,
    reduced,
)
from c2s.datasets.voc import SPOKEN

CLASSES = names("""aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building,
bus, cabinet, car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor,
flower, food, grass, ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform,
pottedplant, road, rock, sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree,
truck, tvmonitor, wall, water, window, wood""")

UNSEEN = "cow, motorbike, sofa, cat, boat, fence, bird, tvmonitor, keyboard, aeroplane"

CATEGORIES = tuple(
    int(category)
    for category in names("""2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105,
    113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458""")
)
"""Category ids of trainval_merged.json in class order; 0 is background."""

FOLDER = "SegmentationClassContext"
LISTS = "ImageSets/SegmentationContext"
SOURCE = "trainval_merged.json"
SPLITS = {
    split: SplitLayout(
        images=("JPEGImages",),
        labels=(FOLDER,),
        lists=((f"{LISTS}/{split}.txt",),),
        expected=expected,
    )
    for split, expected in (("train", (4996, 4998)), ("val", (5104, 5105)))
}

DOWNLOAD = (
    "VOCtrainval_03-May-2010.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2010 (it unpacks to "
    "VOCdevkit/VOC2010) and trainval_merged.json of the Detail API "
    "(https://codalabuser.blob.core.windows.net/public/trainval_merged.json) into VOCdevkit/VOC2010; then run: "
    "c2s data prepare context"
)

DESCRIPTOR = Descriptor(
    name="context",
    short="context",
    folder="VOCdevkit/VOC2010",
    classes=CLASSES,
    prompts=tuple(SPOKEN.get(name, name) for name in CLASSES),
    unseen=ids_of(UNSEEN, CLASSES),
    splits=SPLITS,
    encodings=(LabelEncoding("60 classes", ".png", reduced(59)),),
    download=DOWNLOAD,
)

WITH_BACKGROUND = Descriptor(
    name="context-bg",
    short="context-bg",
    folder=DESCRIPTOR.folder,
    classes=("background", *CLASSES),
    prompts=("background", *DESCRIPTOR.prompts),
    unseen=ids_of(UNSEEN, ("background", *CLASSES)),
    splits=SPLITS,
    encodings=(LabelEncoding("60 classes", ".png", {i: i for i in range(60)}),),
    download=DOWNLOAD,
    protocol=TestProtocol(background=0),
)
