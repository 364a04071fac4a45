"""Cityscapes, the 19 classes that are evaluated; no class is unseen unless a split file says so."""

from __future__ import annotations

from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout, TestProtocol, names

CLASSES = names("""road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle""")

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Official label id of each class; the others of 0..33 are not evaluated."""

DESCRIPTOR = Descriptor(
    name="cityscapes",
    short="cityscapes",
    folder="cityscapes",
    classes=CLASSES,
    unseen=(),
    splits={
        split: SplitLayout(
            images=(f"leftImg8bit/{split}",), labels=(f"gtFine/{split}",), expected=(count,)
        )
        for split, count in (("train", 2975), ("val", 500))
    },
    encodings=(
        LabelEncoding(
            "labelTrainIds", "_gtFine_labelTrainIds.png", {i: i for i in range(len(CLASSES))}
        ),
        LabelEncoding(
            "labelIds",
            "_gtFine_labelIds.png",
            {**dict.fromkeys(range(34)), **{v: i for i, v in enumerate(LABEL_IDS)}},
        ),
    ),
    download=(
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com "
        "(free account needed), both unpacked into cityscapes/"
    ),
    image_suffixes=("_leftImg8bit.png",),
    protocol=TestProtocol(short_side=1024),
)
