"""Deployment: a trained student as an ordinary segmentation model with its classes folded in."""

from c2s.deploy.fold import fold_run
from c2s.deploy.model import SegmentationModel

__all__ = ["SegmentationModel", "fold_run"]
