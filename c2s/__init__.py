"""c2s: CLIP-to-Seg distillation from an offline teacher cache."""

__version__ = "0.1.0"
