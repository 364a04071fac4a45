"""ZeroSeg: segments that are distilled from CLIP's tokens of an image and its parts, without labels and words."""

from c2s.methods.zeroseg.config import ZeroSegConfig
from c2s.methods.zeroseg.examples import CellExamples, RegionExamples, ZeroSegBatch
from c2s.methods.zeroseg.losses import Measure
from c2s.methods.zeroseg.settings import DecoderSettings, ZeroSegSettings

__all__ = [
    "CellExamples",
    "DecoderSettings",
    "Measure",
    "RegionExamples",
    "ZeroSegBatch",
    "ZeroSegConfig",
    "ZeroSegSettings",
]
