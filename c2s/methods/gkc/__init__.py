"""GKC: queries that learn classes in several words and the teacher's tokens, for segmentation across data sets."""

from c2s.methods.gkc.config import GKCConfig
from c2s.methods.gkc.examples import GKCBatch, GKCExamples
from c2s.methods.gkc.method import GKC

__all__ = ["GKC", "GKCBatch", "GKCConfig", "GKCExamples"]
