"""Invariant: a model of transformers is read as numbers and words, by the class that its `model_type` names here."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from c2s_cache import C2SError, ConfigError
from c2s_cache.hub import foreign_kernel, hub, hub_answers
from c2s_pipeline.extras import quiet
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.clip_names import FOLDER, TRANSFORMERS, fetch, no_answer
from c2s_pipeline.teachers.digest import weights_digest
from c2s_pipeline.teachers.image_teacher import ImageTeacher, Preprocessing
from c2s_pipeline.teachers.tower import Tower
from c2s_pipeline.teachers.transformers_towers import (
    TransformersCLIP,
    TransformersSiglip,
    TransformersSiglip2,
)

FAMILIES = {
    "clip": ("CLIPModel", TransformersCLIP),
    "siglip": ("SiglipModel", TransformersSiglip),
    "siglip2": ("Siglip2Model", TransformersSiglip2),
}
"""Class of transformers and of the image tower, by `model_type`."""
CLIP_MEAN, CLIP_STD = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
DECISIVE = (
    *("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size", "image_size"),
    *("num_patches", "eos_token_id", "max_position_embeddings"),
)
"""Settings that change what the same weights compute."""
FILES = '"*.json" "*.safetensors" "*.txt" "*.model"'
TINY = {
    "num_hidden_layers": 0,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 1,
}
"""An image tower that costs nothing, in place of the one that is not wanted."""


def is_transformers(name: str) -> bool:
    """Whether a teacher's name means a model of transformers: `hf:OWNER/NAME`, or a folder in its layout."""
    folder = Path(name.removeprefix(FOLDER))
    return name.startswith(TRANSFORMERS) or (
        name.startswith(FOLDER)
        and (folder / "config.json").is_file()
        and not (folder / "open_clip_config.json").is_file()
    )


class TransformersTeacher(ImageTeacher):
    """A CLIPModel, SiglipModel or Siglip2Model of transformers, from a folder or the Hub.

    Args:
        spec, device, pool: see `c2s_pipeline.teachers.registry.load_teacher`.

    Raises:
        ConfigError: a model of another kind, or one that asks for code; a way of preprocessing that c2s does not have.
        C2SError: it cannot be loaded or downloaded.
    """

    def __init__(self, spec: TeacherSpec, device: torch.device, pool: Executor | None) -> None:
        config = _config(spec.name)
        self._model: Any = _model(spec.name, config).to(device)
        tower = FAMILIES[config.model_type][1](self._model, spec.name)
        ways = _preprocessing(spec.name, config.model_type, tower.image_size)
        super().__init__(spec, tower, ways, device, pool)

    @classmethod
    def load_text(cls, spec: TeacherSpec, device: torch.device) -> TransformersText:
        """The text tower without the image tower; see `c2s_pipeline.teachers.registry.load_text_encoder`."""
        config = _config(spec.name)
        model: Any = _model(spec.name, config, alone=True)
        return TransformersText(model.to(device), spec.name, device)

    @cached_property
    def text(self) -> TransformersText:
        """See `ImageTeacher`."""
        return TransformersText(self._model, self.spec.name, self.device)

    def digests(self) -> tuple[str, str]:
        """See `ImageTeacher`."""
        names = ("vision_model.", "visual_projection.")
        tower = _digest(self._model, names, self._model.config.vision_config)
        return tower, self.text.digest

    def logits(self) -> tuple[float | None, float | None]:
        """See `ImageTeacher`."""
        bias = getattr(self._model, "logit_bias", None)
        scale = float(self._model.logit_scale.detach().exp())
        return scale, None if bias is None else float(bias.detach())


class TransformersText:
    """The text tower of a model of transformers.

    Args:
        model: the model, with or without its image tower.
        name: of the teacher, whose tokenizer it takes.
        device: where the model is.

    Raises:
        C2SError: its tokenizer cannot be loaded.
    """

    def __init__(self, model: Any, name: str, device: torch.device) -> None:
        from transformers import AutoTokenizer

        self.device, self._model = device, model
        with _reading(name, "the tokenizer of teacher"):
            self._tokenizer = AutoTokenizer.from_pretrained(_source(name), trust_remote_code=False)
        # SigLIP 2 was trained on small letters, which not every file of its tokenizer says.
        self._lower = model.config.model_type != "clip"
        self._turn = threading.Lock()

    @cached_property
    def digest(self) -> str:
        """See `TextEncoder`."""
        names = ("text_model.", "text_projection.")
        return _digest(self._model, names, self._model.config.text_config)

    @torch.inference_mode()
    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """See `TextEncoder.embed_text`. Padding is not masked: CLIP looks back from the end, SigLIP was trained so."""
        most = int(self._model.config.text_config.max_position_embeddings)
        said = [s.lower() for s in sentences] if self._lower else list(sentences)
        with self._turn:
            tokens = self._tokenizer(
                said, padding="max_length", truncation=True, max_length=most, return_tensors="pt"
            )
        found = self._model.get_text_features(tokens["input_ids"].to(self.device))
        return nn.functional.normalize(found.pooler_output.float(), dim=-1)


def _digest(model: nn.Module, names: tuple[str, ...], config: Any) -> str:
    state = {k: v for k, v in model.state_dict().items() if k.startswith(names)}
    decisive = {key: getattr(config, key, None) for key in DECISIVE}
    return weights_digest(state, json.dumps(decisive))


def _source(name: str) -> str:
    return name.removeprefix(TRANSFORMERS).removeprefix(FOLDER)


def _config(name: str) -> Any:
    """The configuration of a model, of a kind that is known here.

    Raises:
        ConfigError: it is none, or asks for more than weights.
    """
    from transformers import AutoConfig

    if name.startswith(TRANSFORMERS) and not re.fullmatch(r"[\w.-]+/[\w.-]+", _source(name)):
        raise ConfigError(f"teacher {name}: write hf:OWNER/NAME of a repository of the Hub.")
    with _reading(name, "the configuration of teacher"):
        config = AutoConfig.from_pretrained(_source(name), trust_remote_code=False)
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"teacher {name} is a model of the kind {config.model_type!r}; of transformers c2s distils from "
            f"{', '.join(FAMILIES)}.",
            "A class of your own can load it: --teacher python:MODULE:CLASS",
        )
    if getattr(config, "auto_map", None) or foreign_kernel(config):
        raise ConfigError(f"teacher {name} brings Python code of its own, which is never run.")
    if getattr(config, "quantization_config", None):
        raise ConfigError(f"teacher {name} has quantised weights; take those in floating point.")
    return config


def _model(name: str, config: Any, alone: bool = False) -> nn.Module:
    """The frozen model, or with `alone` its text tower, for which as little is read as the files allow."""
    import transformers

    kind = getattr(transformers, FAMILIES[config.model_type][0])
    if alone:
        for key, value in TINY.items():
            setattr(config.vision_config, key, value)
    with _reading(name, "teacher"):
        model, told = kind.from_pretrained(
            _source(name),
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            ignore_mismatched_sizes=alone,
            output_loading_info=True,
        )
    unwanted = ("vision_model.", "visual_projection.") if alone else ()
    lacking = sorted(k for k in told["missing_keys"] if not k.startswith(unwanted))
    lacking += [k for k, *_ in told["mismatched_keys"] if not k.startswith(unwanted)]
    if lacking:
        raise C2SError(
            f"teacher {name}: its weights lack {lacking[0]}, or have it in another size."
        )
    if alone:
        model.vision_model = nn.Identity()
    frozen: nn.Module = model.eval().requires_grad_(False)
    return frozen


def blank_model(name: str) -> tuple[Tower, Preprocessing, nn.Module, nn.Module]:
    """Image tower of a model on the meta device, its preprocessing, and the modules of both towers.

    Raises:
        ConfigError, C2SError: as `TransformersTeacher`.
    """
    import transformers

    config = _config(name)
    kind, family = FAMILIES[config.model_type]
    with torch.device("meta"), _reading(name, "teacher"):
        model = getattr(transformers, kind)(config).eval().requires_grad_(False)
    tower = family(model, name)
    ways = _preprocessing(name, config.model_type, tower.image_size)
    return tower, ways, model.vision_model, model.text_model


def _preprocessing(name: str, kind: str, size: int) -> Preprocessing:
    """That of `preprocessor_config.json`, with what transformers assumes where it is silent.

    Raises:
        ConfigError: c2s has no such way, or it gives images of another size.
    """
    from transformers.utils import cached_file

    with _reading(name, "the preprocessing of teacher"):
        file = cached_file(_source(name), "preprocessor_config.json")
        given = json.loads(Path(file).read_text(encoding="utf-8"))
    clip = kind == "clip"
    half = (0.5, 0.5, 0.5)
    resample = {2: "bilinear", 3: "bicubic"}.get(
        given.get("resample", 2 if kind == "siglip2" else 3)
    )
    sides = given.get("size") or ({"shortest_edge": 224} if clip else {"height": 224, "width": 224})
    sides = sides if isinstance(sides, dict) else {"shortest_edge": sides}
    crop = given.get("crop_size", sides)
    cropped = {*(crop.values() if isinstance(crop, dict) else [crop]), *sides.values()}
    if kind != "siglip2" and cropped != {size}:
        raise ConfigError(
            f"teacher {name} resizes images to {sides} before it crops them, and takes {size} pixels; c2s "
            "resizes to the size that a teacher takes."
        )
    return Preprocessing.named(
        name,
        given.get("image_mean", CLIP_MEAN if clip else half),
        given.get("image_std", CLIP_STD if clip else half),
        "shortest" if kind != "siglip2" and "shortest_edge" in sides else "squash",
        resample,
    )


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """Around whatever reads a folder or a repository: says in one sentence what went wrong."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with quiet(), hub():
            yield
    except C2SError:
        raise
    except Exception as error:  # transformers and what it downloads with fail in many ways
        first, source = str(error).strip().partition("\n")[0], _source(name)
        if name.startswith(FOLDER):
            hint = (
                "Its files (config.json, model.safetensors, preprocessor_config.json and those of its tokenizer) "
                f"must lie in {source}."
            )
        else:
            hint = fetch((source, FILES))
            if not hub_answers():
                first = f"{source} is not on this machine, and {no_answer()}."
        raise C2SError(f"{what} {name} cannot be loaded: {first}", hint) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
