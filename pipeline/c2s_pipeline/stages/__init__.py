"""The stages of a cache, one file each, and how they are found."""

from c2s_pipeline.stages.base import Stage, StageSettings
from c2s_pipeline.stages.registry import closed, known, name_of, recorded_stages

__all__ = ["Stage", "StageSettings", "closed", "known", "name_of", "recorded_stages"]
