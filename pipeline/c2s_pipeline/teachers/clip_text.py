"""Invariant: a text tower that is loaded alone gives, bit for bit, what it gives in the whole model."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.serialization import config as serialization

from c2s_cache import C2SError
from c2s_pipeline.extras import require
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.clip_model import (
    activation_of,
    blank_model,
    create_model,
    find_weights,
    loading,
)
from c2s_pipeline.teachers.clip_names import RANDOM
from c2s_pipeline.teachers.digest import weights_digest
from c2s_pipeline.teachers.model_folder import load_tokenizer, trial_tokenizer
from c2s_pipeline.teachers.weights_file import Weights, packed_weights

NOT_TEXT = ("visual.", "logit_", "text_decoder.")
"""What begins the names of weights that no sentence goes through: CoCa's decoder writes captions."""
TINY = {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 0}
"""An image tower that costs nothing, in place of the one that is not wanted."""
DRAWN = (
    *(Tensor.normal_, Tensor.uniform_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
)
"""What fills a weight with random numbers: by itself, and as torch tells a mode of it."""


class OpenClipText:
    """The text tower of one of open_clip's models.

    Args:
        model: the model, with or without its image tower, in evaluation mode.
        spec: of the teacher, whose tokenizer it takes.
        device: where the model is.

    Raises:
        ConfigError, C2SError: its tokenizer cannot be loaded.
    """

    def __init__(self, model: nn.Module, spec: TeacherSpec, device: torch.device) -> None:
        self.device, self._model = device, model
        tokenizer = trial_tokenizer if spec.pretrained == RANDOM else load_tokenizer
        self._tokenizer = tokenizer(spec.name)
        self._turn = threading.Lock()

    @cached_property
    def digest(self) -> str:
        """See `TextEncoder`; the scale and bias of logits have no part in it."""
        return text_digest(self._model)

    @torch.inference_mode()
    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """See `TextEncoder.embed_text`."""
        with self._turn:  # tokenizers of the hub must not be asked twice at once
            tokens: Tensor = self._tokenizer(list(sentences))
        model: Any = self._model
        features: Tensor = model.encode_text(tokens.to(self.device), normalize=True)
        return features.float()


def text_digest(model: nn.Module) -> str:
    """Digest of a model's text tower: of all weights that its sentences go through."""
    state = {k: v for k, v in model.state_dict().items() if _of_text(k)}
    parts = (part for name, part in model.named_children() if _of_text(f"{name}."))
    return weights_digest(state, activation_of(*parts))


def _of_text(name: str) -> bool:
    return not name.startswith(NOT_TEXT)


def load_text(spec: TeacherSpec, device: torch.device) -> OpenClipText:
    """The text tower of a spec, alone. Of its image tower nothing is made, and as little is read as the file allows.

    Raises:
        ConfigError, C2SError: as `create_model`; or the weights have no text tower of that model.
    """
    with loading(spec):
        file = find_weights(spec)
        if file is None or file.suffix in (
            ".npz",
            ".npy",
        ):  # open_clip converts both towers at once
            model: Any = create_model(spec)[0]
            model.visual = nn.Identity()
        else:
            model = _text_model(spec, file)
    return OpenClipText(model.to(device), spec, device)


def _text_model(spec: TeacherSpec, file: Path) -> nn.Module:
    packed = packed_weights(file)
    with _Undrawn():
        model = blank_model(spec, packed, vision_cfg=TINY)
    model.visual = nn.Identity()
    missing, others = _fill(model, file, packed)
    wrong = [*missing, *(name for name in others if not name.startswith("visual."))]
    if wrong:
        raise C2SError(
            f"the weights {file} are not those of the text tower of {spec.name} ({wrong[0]})."
        )
    return model.eval().requires_grad_(False)


class _Undrawn(TorchFunctionMode):
    """A model is made without drawing the initial values of its weights, all of which a file replaces."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Leave a tensor as it is where it would be filled with random numbers."""
        given = kwargs or {}
        if func in DRAWN:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _fill(model: nn.Module, file: Path, packed: Weights | None) -> tuple[list[str], list[str]]:
    """Load what fits by its name; returns the names that the file lacks, and those that it has beside."""
    if packed is not None:
        found = model.load_state_dict(packed.state, strict=False)
    else:
        # safetensors is mapped into memory by itself; torch's form before 1.6 cannot be
        mapped: Any = serialization.patch("load.mmap", zipfile.is_zipfile(file))  # type: ignore[attr-defined]
        with mapped:
            found = require("open_clip", "build").load_checkpoint(model, str(file), strict=False)
    return found.missing_keys, found.unexpected_keys
