"""VIPSeg, frame by frame: 124 classes, of which GKC leaves 12 unseen."""

from __future__ import annotations

from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout, ids_of
from c2s.datasets.shipped_classes import shipped_classes

NAMES = shipped_classes("vipseg")
CLASSES = tuple(names[0] for names in NAMES)
UNSEEN = """pillar, ice, grandstand, tyre, box, basket, trash can, bathtub, fan, blackboard, printer,
instrument"""
MASKS = "panomasks"
INSTANCES = 100
"""Numbers of things of a class; a mask's value is class id + 1, of a thing 100 times that and its number."""
LISTS, VIDEOS = "frames", "{split}.txt"
"""Where `c2s data prepare` lists the frames of a split, and the file that lists its videos."""

VALUES: dict[int, int | None] = {0: None}
VALUES |= {i + 1: i for i in range(len(CLASSES))}
VALUES |= {INSTANCES * (i + 1) + k: i for i in range(1, len(CLASSES)) for k in range(INSTANCES)}

DESCRIPTOR = Descriptor(
    name="vipseg",
    short="vipseg",
    folder="VIPSeg",
    classes=CLASSES,
    names=NAMES,
    unseen=ids_of(UNSEEN, CLASSES),
    splits={
        split: SplitLayout(
            images=("imgs",),
            labels=(MASKS,),
            instances=(MASKS,),
            lists=((f"{LISTS}/{split}.txt",),),
        )
        for split in ("train", "val")
    },
    clips=True,
    encodings=(LabelEncoding("class, or class and number", ".png", VALUES),),
    download=(
        "VIPSeg as https://github.com/VIPSeg-Dataset/VIPSeg-Dataset says, with imgs/, panomasks/ and the "
        "lists train.txt and val.txt, then run: c2s data prepare vipseg"
    ),
)
