"""Invariant: a CLIP model is open_clip's own, found by name, and frozen."""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from c2s_cache import C2SError, ConfigError
from c2s_pipeline.dense import DenseFeatures
from c2s_pipeline.extras import require

Precision = Literal["float32", "float16", "bfloat16"]
DEFAULT_PRETRAINED = "openai"
RANDOM = "random"


@dataclass(frozen=True)
class TeacherSpec:
    """What to load.

    Args:
        name: open_clip model name ("ViT-B-16") or "local-dir:PATH" of a folder in open_clip's layout.
        pretrained: weight tag, checkpoint file, or "random" (seeded, for trials and benchmarks);
            None for a local-dir, which brings its own weights.
        dense_size: input side in pixels for the dense features; None = the native size.
        dense_features: which tokens are the dense features; see `c2s_pipeline.dense`.
        precision: arithmetic of the forward pass; below float32 only on a GPU.
    """

    name: str
    pretrained: str | None
    dense_size: int | None = None
    dense_features: DenseFeatures = "plain"
    precision: Precision = "float32"


def weights_digest(model: nn.Module) -> str:
    """Hex SHA-256 over the names, shapes, dtypes and bytes of all parameters and persistent buffers."""
    state = model.state_dict()
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def default_pretrained(name: str) -> str | None:
    """Weights used when none are named: OpenAI's, as in the paper; a local-dir brings its own."""
    return None if name.startswith(("local-dir:", "hf-hub:")) else DEFAULT_PRETRAINED


def create_model(spec: TeacherSpec, image_size: int | None) -> nn.Module:
    """The frozen model; its position embeddings interpolated if `image_size` is not None.

    Raises:
        ConfigError: open_clip has no model, or no weights, of that name.
        C2SError: the weights cannot be loaded or downloaded.
    """
    open_clip = require("open_clip", "build")
    weights = None if spec.pretrained == RANDOM else spec.pretrained
    _check_names(open_clip, spec.name, weights)
    if spec.pretrained == RANDOM:
        torch.manual_seed(0)
    try:
        with quiet():
            model: nn.Module = open_clip.create_model(
                spec.name,
                pretrained=weights,
                force_image_size=image_size,
                force_quick_gelu=_needs_quick_gelu(open_clip, spec.name, weights),
                load_weights=True,
            )
    except (RuntimeError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise C2SError(
            f"teacher {spec.name} with weights {spec.pretrained!r} cannot be loaded or downloaded: "
            f"{_first_line(error)}",
            "Name a checkpoint file that fits the model with --pretrained FILE.",
        ) from error
    return model.eval().requires_grad_(False)


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip reports every step to the root logger, which would also configure that logger."""
    root, silence = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silence)
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(silence)


def _check_names(open_clip: Any, name: str, weights: str | None) -> None:
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise ConfigError(f"teacher {name}: there is no open_clip_config.json in {folder}.")
        return
    if name.startswith("hf-hub:"):
        return
    if name not in open_clip.list_models():
        near = [m for m in open_clip.list_models() if m.lower().startswith(name.lower()[:6])]
        raise ConfigError(
            f"unknown teacher {name!r}; open_clip has no model of that name.",
            f"Similar names: {', '.join(near[:6]) or 'none'}.",
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights is not None and weights not in tags and not Path(weights).is_file():
        raise ConfigError(
            f"--pretrained {weights!r} is neither a file nor a weight tag of {name}.",
            f"Tags: {', '.join(tags) or 'none'}.",
        )


def _needs_quick_gelu(open_clip: Any, name: str, weights: str | None) -> bool:
    """Some tags were trained with QuickGELU under a model name whose configuration says GELU."""
    if weights is None or ":" in name:
        return False
    config = open_clip.get_pretrained_cfg(name, weights) or {}
    return bool(config.get("quick_gelu", False))


def vision_transformer(model: nn.Module, name: str) -> Any:
    """The image tower of a model.

    Raises:
        ConfigError: it is no ViT that projects its CLS token, or the mean token.
    """
    open_clip = require("open_clip", "build")
    visual: Any = model.visual
    if (
        not isinstance(visual, open_clip.transformer.VisionTransformer)
        or visual.attn_pool is not None
        or visual.pool_type not in ("tok", "avg")
        or visual.proj is None
    ):
        raise ConfigError(
            f"teacher {name} is not a ViT that projects a CLS token (or the mean token), "
            "which C2S distils from.",
            "Choose one such as ViT-B-16.",
        )
    return visual


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
