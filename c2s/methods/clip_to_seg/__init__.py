"""CLIP-to-Seg distillation (C2S): global and local distillation, latent embeddings, pixel loss."""

from c2s.methods.clip_to_seg.config import ClipToSegConfig
from c2s.methods.clip_to_seg.examples import ClipToSegBatch, ClipToSegExamples
from c2s.methods.clip_to_seg.global_distillation import CLSBank, aggregate, info_nce
from c2s.methods.clip_to_seg.latent_embedding import LatentEmbedding, latent_ids
from c2s.methods.clip_to_seg.local_distillation import local_info_nce, region_means
from c2s.methods.clip_to_seg.method import ClipToSeg
from c2s.methods.clip_to_seg.self_training import SelfTraining
from c2s.methods.clip_to_seg.settings import LossWeights
from c2s.methods.pixel_loss import (
    class_scores,
    cross_entropy_loss,
    dice_loss,
    focal_loss,
)

__all__ = [
    "CLSBank",
    "ClipToSeg",
    "ClipToSegBatch",
    "ClipToSegConfig",
    "ClipToSegExamples",
    "LatentEmbedding",
    "LossWeights",
    "SelfTraining",
    "aggregate",
    "class_scores",
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "info_nce",
    "latent_ids",
    "local_info_nce",
    "region_means",
]
