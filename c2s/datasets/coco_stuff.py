"""COCO-Stuff 164k: 171 classes, the field's 156 seen / 15 unseen split, raw and labelTrainIds label maps; and of the
same images the 80 things alone, all else background."""

from __future__ import annotations

from dataclasses import replace

from c2s.datasets.descriptor import (
    Descriptor,
    LabelEncoding,
    SplitLayout,
    TestProtocol,
    ids_of,
    names,
)

THINGS = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball,
kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup,
fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush"""

STUFF = """banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt,
door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog,
food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat,
metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other,
plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood"""

CLASSES = names(f"{THINGS}, {STUFF}")
OBJECTS = ("background", *names(THINGS))

UNSEEN = """cow, giraffe, suitcase, frisbee, skateboard, carrot, scissors, cardboard, clouds,
grass, playingfield, river, road, tree, wall-concrete"""

UNUSED_VALUES = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Values of the raw 0..181 numbering that the data set never uses."""

RAW_VALUES = tuple(v for v in range(182) if v not in UNUSED_VALUES)


def spoken(name: str) -> str:
    """A name as MaskCLIP's prompts have it: "sky-other" -> "sky", "wall-brick" -> "brick wall"."""
    head, _, tail = name.partition("-")
    return head if tail in ("", "other", "stuff") else f"{tail} {head}"


DESCRIPTOR = Descriptor(
    name="coco-stuff",
    short="coco",
    folder="coco_stuff164k",
    classes=CLASSES,
    prompts=tuple(spoken(name) for name in CLASSES),
    unseen=ids_of(UNSEEN, CLASSES),
    splits={
        split: SplitLayout(
            images=(f"images/{split}2017", f"{split}2017"),
            labels=(
                f"stuffthingmaps_trainval2017/{split}2017",
                f"annotations/{split}2017",
                f"stuffthingmaps/{split}2017",
            ),
            expected=(count,),
        )
        for split, count in (("train", 118287), ("val", 5000))
    },
    encodings=(
        LabelEncoding("labelTrainIds", "_labelTrainIds.png", {i: i for i in range(len(CLASSES))}),
        LabelEncoding("raw stuffthingmaps", ".png", {v: i for i, v in enumerate(RAW_VALUES)}),
    ),
    download=(
        "train2017.zip and val2017.zip from http://images.cocodataset.org/zips (into images/) and "
        "stuffthingmaps_trainval2017.zip from https://github.com/nightrome/cocostuff (into "
        "stuffthingmaps_trainval2017/)"
    ),
)

_THING = {i: i + 1 if i < len(OBJECTS) - 1 else 0 for i in range(len(CLASSES))} | {255: 0}
"""Class among `OBJECTS` of each class of COCO-Stuff, and of what has none."""

THINGS_ALONE = replace(
    DESCRIPTOR,
    name="coco-object",
    short="coco-object",
    classes=OBJECTS,
    prompts=("background", *DESCRIPTOR.prompts[: len(OBJECTS) - 1]),
    names=(("background",), *DESCRIPTOR.names[: len(OBJECTS) - 1]),
    unseen=ids_of(", ".join(set(names(UNSEEN)) & set(OBJECTS)), OBJECTS),
    encodings=(
        LabelEncoding("labelTrainIds", "_labelTrainIds.png", _THING),
        LabelEncoding(
            "raw stuffthingmaps",
            ".png",
            {**{v: _THING[i] for i, v in enumerate(RAW_VALUES)}, 255: 0},
        ),
    ),
    protocol=TestProtocol(background=0),
)
