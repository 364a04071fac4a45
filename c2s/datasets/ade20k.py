"""ADE20K, the 150 classes of the scene parsing benchmark; no class is unseen unless a split file says so."""

from __future__ import annotations

from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout, names, reduced

CLASSES = names("""wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet,
sidewalk, person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing,
cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway, river,
bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove, palm, kitchen
island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy,
washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven,
ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor,
bulletin board, shower, radiator, glass, clock, flag""")
"""The first of the synonyms in objectInfo150.txt but for "television receiver", as the field has them."""

DESCRIPTOR = Descriptor(
    name="ade20k",
    short="ade20k",
    folder="ADEChallengeData2016",
    classes=CLASSES,
    unseen=(),
    splits={
        split: SplitLayout(
            images=(f"images/{folder}",), labels=(f"annotations/{folder}",), expected=(count,)
        )
        for split, folder, count in (("train", "training", 20210), ("val", "validation", 2000))
    },
    encodings=(LabelEncoding("150 classes, 0 = other", ".png", reduced(150)),),
    download="ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu",
)
