"""ADE20K with 847 classes, to score on: labels of 16 bits, in the form that the field gives ADE20K_2021_17_01."""

from __future__ import annotations

from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout
from c2s.datasets.shipped_classes import shipped_classes

NAMES = shipped_classes("ade20k-full")

DESCRIPTOR = Descriptor(
    name="ade20k-full",
    short="ade20k-full",
    folder="ADE20K_2021_17_01",
    classes=tuple(names[0] for names in NAMES),
    names=NAMES,
    unseen=(),
    splits={
        split: SplitLayout(
            images=(f"images_detectron2/{folder}",),
            labels=(f"annotations_detectron2/{folder}",),
            expected=(count,),
        )
        for split, folder, count in (("train", "training", 25574), ("val", "validation", 2000))
    },
    encodings=(LabelEncoding("847 classes", ".tif", {i: i for i in range(len(NAMES))}),),
    download=(
        "ADE20K_2021_17_01 from https://groups.csail.mit.edu/vision/datasets/ADE20K and bring it into the form of "
        "MaskFormer's prepare_ade20k_full_sem_seg.py (images_detectron2/ and annotations_detectron2/)"
    ),
)
