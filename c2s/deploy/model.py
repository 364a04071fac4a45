"""Invariant: the folded model is the stock architecture with K outputs, or the student with its text
embeddings beside it; nothing of CLIP is left but these numbers."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from c2s.deploy.card import model_card
from c2s.deploy.info import (
    ModelError,
    ModelInfo,
    damaged,
    decode_info,
    encode_info,
    info_digest,
    read_info,
)
from c2s.evaluation.classifier import Classifier
from c2s.evaluation.inference import Mode, Predictor
from c2s.plain_torch import plain_torch
from c2s.runs.tensors import difference, require_finite
from c2s.students import create
from c2s.students.registry import require_no_code
from c2s.tensor_file import load_sealed, seal, write_whole
from c2s_cache.hub import hub
from c2s_cache.picture import rgb
from c2s_cache.receipt import write_atomic

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# No `from __future__ import annotations` here: the mixin reads the annotation of `config` as a class.


class SegmentationModel(nn.Module, ModelHubMixin, coders={ModelInfo: (encode_info, decode_info)}):
    """A student with its classes built in: images to K logits.

    `from_pretrained(folder or hub id)`, `save_pretrained(folder)` and `push_to_hub(id)` are those of
    `huggingface_hub.ModelHubMixin`: `model.safetensors`, `config.json`, and `README.md`, the model card.

    Args:
        config: architecture, classes, sizes, provenance.

    Attributes:
        config: the same.
        student: the architecture with K outputs, or a `Classifier` of a student that is asked with the
            embeddings; random weights until they are loaded.
        mean, std: normalisation of the inputs, RGB, in units of pixel / 255.

    Raises:
        ConfigError: there is no such student.
    """

    def __init__(self, config: ModelInfo) -> None:
        super().__init__()
        self.config = config
        self.mean, self.std = config.mean, config.std
        count = len(config.classes)
        width = count if config.kind == "folded" else config.dim
        student = create(config.student, width, "random", config.architecture)
        asked = config.kind == "asked"
        self.student = Classifier(student, torch.zeros(count, width)) if asked else student

    def forward(self, images: Tensor) -> Tensor:
        """Logits float [B, K, h, w] of normalised images [B, 3, H, W], at the student's resolution.

        Of a folded student a logit is the cosine of feature and class embedding times the norm of the
        feature; else it is the student's own score.
        """
        logits: Tensor = self.student(images)
        return logits

    def predictor(self, mode: Mode = "slide") -> Predictor:
        """The test protocol (window and short side of `config.crop` pixels) on this model's device."""
        return Predictor(self, self.config.crop, mode, device=next(self.parameters()).device)

    def segment(
        self, image: Image.Image | NDArray[np.uint8], mode: Mode = "slide"
    ) -> NDArray[np.int64]:
        """Class of every pixel of a picture: int64 [H, W], indices into `config.classes`.

        Args:
            image: a PIL image of at most 16 bits, or uint8 RGB [H, W, 3] of any size.
            mode: "slide" (windows of `config.crop` pixels) or "whole".

        Raises:
            UnreadableImage: a PIL image of another kind of pixels.
            ModelError: an array of another type or shape.
        """
        if isinstance(image, Image.Image):
            image = rgb(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ModelError(
                f"segment takes uint8 RGB [H, W, 3], got {image.dtype} {list(image.shape)}."
            )
        return self.predictor(mode).predict(image)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that `save_pretrained` writes."""
        return ModelCard(model_card(self.config))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """The model of a folder or hub id; see `huggingface_hub.ModelHubMixin.from_pretrained`.

        `allow_code=True` lets a `python:` student be imported and called.

        Raises:
            CodeError: the student is one, and this is not allowed.
            ModelError: it is no folded c2s model, or it is damaged.
            NotFinite: its weights are not finite.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            read_info(folder)  # the mixin's own errors are tracebacks
        try:
            with nullcontext() if folder.is_dir() else hub():
                return super().from_pretrained(pretrained_model_name_or_path, **options)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise damaged(pretrained_model_name_or_path, error) from error

    def _save_pretrained(self, save_directory: Path) -> None:
        require_finite(self.student.state_dict(), str(save_directory / WEIGHTS))
        config = json.dumps(encode_info(self.config), sort_keys=True, indent=2)
        write_atomic(save_directory / CONFIG, config.encode())  # the mark of its folder comes first
        write_whole(save_directory / WEIGHTS, self._save_weights)

    def _save_weights(self, file: Path) -> None:
        save_model(self.student, str(file))
        stored = load_file(file)  # of a tensor with several names, one: only now is known which
        save_model(self.student, str(file), seal(stored, self._beside))

    @property
    def _beside(self) -> dict[str, str]:
        return {CONFIG: info_digest(self.config)}

    @classmethod
    @plain_torch()
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        allow_code: bool = False,
        **model_kwargs: Any,
    ) -> Self:
        # The mixin for PyTorch would fall back to pickles, and accept weights that do not fit.
        if "config" not in model_kwargs:
            raise ModelError(f"{model_id} has no config.json, so it is no folded c2s model.")
        file: str | Path = Path(model_id) / WEIGHTS
        local = Path(model_id).is_dir()
        require_no_code(model_kwargs["config"].student, model_id, allow_code)
        model = cls(**model_kwargs)
        if not local:
            file = hf_hub_download(
                model_id,
                WEIGHTS,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        hint = "Fold it again: c2s fold --run RUN --out MODEL --overwrite"
        try:
            if not Path(file).is_file():
                raise FileNotFoundError("there is no such file")
            found = load_sealed(Path(file), model._beside)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} is missing or damaged ({error}).", hint) from error
        ours = model.student.state_dict()
        there = {value.data_ptr() for name, value in ours.items() if name in found}
        expected = {k: v for k, v in ours.items() if k in found or v.data_ptr() not in there}
        wrong = difference(expected, found)  # of tensors of several names, one is stored
        if wrong is not None:
            raise ModelError(
                f"{file} is not the {model.config.student} of its config.json: {wrong}.", hint
            )
        require_finite(found, str(file), hint)
        model.student.load_state_dict(found, strict=False)
        return model.eval()
