"""COCO panoptic: 133 classes, 80 of things and 53 of stuff, with instances; no class is unseen unless a split file
says so."""

from __future__ import annotations

from c2s.datasets.coco_stuff import THINGS
from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout, names

STUFF = """banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel,
house, light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, roof, sand, sea, shelf, snow,
stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other, window-blind, window-other,
tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged, floor-other-merged,
pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged, food-other-merged, building-other-merged,
rock-merged, wall-other-merged, rug-merged"""

CLASSES = names(f"{THINGS}, {STUFF}")
LABELS, INSTANCES = "panoptic_labels", "panoptic_instances"
"""Folders that `c2s data prepare` writes: label maps of class ids, and maps that number the segments."""


def spoken(name: str) -> str:
    """A name without what tells COCO's lists apart: "wall-other-merged" -> "wall", "floor-wood" -> "floor wood"."""
    for ending in ("-merged", "-other", "-stuff"):
        name = name.removesuffix(ending)
    return name.replace("-", " ")


DESCRIPTOR = Descriptor(
    name="coco-panoptic",
    short="coco-panoptic",
    folder="coco",
    classes=CLASSES,
    prompts=tuple(spoken(name) for name in CLASSES),
    unseen=(),
    splits={
        split: SplitLayout(
            images=(f"images/{split}2017", f"{split}2017"),
            labels=(f"{LABELS}/{split}2017",),
            instances=(f"{INSTANCES}/{split}2017",),
            captions=(f"annotations/captions_{split}2017.json",),
            expected=(count,),
        )
        for split, count in (("train", 118287), ("val", 5000))
    },
    encodings=(LabelEncoding("133 classes", ".png", {i: i for i in range(len(CLASSES))}),),
    download=(
        "train2017.zip and val2017.zip from http://images.cocodataset.org/zips and "
        "panoptic_annotations_trainval2017.zip from http://images.cocodataset.org/annotations, unpack them and the two "
        "zip files in annotations/ in place, then run: c2s data prepare coco-panoptic (captions are in "
        "annotations_trainval2017.zip)"
    ),
)
