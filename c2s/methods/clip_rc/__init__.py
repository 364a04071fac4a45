"""CLIP-RC: prompts, a region-level bridge, region alignment and a recovery decoder on CLIP's own image tower."""

from c2s.methods.clip_rc.config import ClipRCConfig
from c2s.methods.clip_rc.method import ClipRC
from c2s.methods.clip_rc.recovery import RecoveryDecoder, recovery_loss

__all__ = ["ClipRC", "ClipRCConfig", "RecoveryDecoder", "recovery_loss"]
