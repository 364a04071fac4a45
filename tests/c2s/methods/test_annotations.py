"""Shapes and dtypes are checked in tests as the annotations say them."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from c2s.methods.clip_to_seg import info_nce, region_means
from c2s.methods.feature_map import FeatureMap
from c2s.methods.pixel_loss import dice_loss


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: info_nce(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(5, 3), 1.0),
        lambda: info_nce(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3), 1.0),
        lambda: dice_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4)),
        lambda: dice_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 5, dtype=torch.int64)),
        lambda: region_means(
            torch.zeros(1, 2, 4, 4), *(torch.zeros(1, 4, 4, dtype=torch.int64),) * 2
        ),
        lambda: FeatureMap(torch.zeros(1, 2, 4)),
    ],
    ids=["width", "negatives", "dtype", "size", "type", "axes"],
)
def test_what_an_annotation_forbids_is_refused(wrong):
    with pytest.raises(TypeCheckError):
        wrong()
