"""Models of segmentation_models_pytorch: `smp:unet/resnet34`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from c2s.students.adapters.library_student import InputSpec, LibraryStudent, channels
from c2s.students.adapters.weights import PRETRAINED, fill, is_file, making
from c2s.students.weights import read_checkpoint
from c2s_cache.errors import ConfigError, MissingExtra

FACTORS = {"pan": 8, "dpt": 2}
"""How many cells of the encoder's last map sides must have a multiple of, where a decoder halves it again."""
OPTIONS: dict[str, dict[str, Any]] = {"dpt": {"dynamic_img_size": True}}


def build(name: str, dim: int, weights: str | None, config: Any = None) -> LibraryStudent:
    """A model of segmentation_models_pytorch; its backbone is the encoder.

    Args:
        name: architecture/encoder, such as "unet/resnet34" or "upernet/tu-convnext_tiny".
        dim: D.
        weights: of the encoder. None or "random": none; "pretrained": ImageNet's; another name of
            `encoder_weights`; or a file, which then goes with ImageNet's normalisation.
        config: unused.

    Raises:
        MissingExtra: the library is not installed.
        ConfigError: no such architecture or encoder, or the weights cannot be had or do not fit.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise MissingExtra(
            f"The student smp:{name} needs segmentation_models_pytorch.", "pip install 'c2s[smp]'"
        ) from error
    kind, _, encoder = name.partition("/")
    if kind not in smp.MODEL_ARCHITECTURES_MAPPING or not encoder:
        raise ConfigError(
            f"There is no student smp:{name}; write smp:ARCHITECTURE/ENCODER, the architecture one of "
            f"{', '.join(smp.MODEL_ARCHITECTURES_MAPPING)}."
        )
    from_timm = encoder.startswith("tu-")
    known = [] if from_timm else smp.encoders.get_encoder_names()
    if not from_timm and encoder not in known:
        raise ConfigError(
            f"segmentation_models_pytorch has no encoder {encoder!r}.",
            f"Near it are {', '.join(get_close_matches(encoder, known, 5, 0))}; timm's are tu-NAME.",
        )
    named = None if weights is None or is_file(weights) else weights
    named = "imagenet" if named in PRETRAINED else named
    with making(f"smp:{name}", weights):
        model = smp.create_model(
            kind,
            encoder,
            encoder_weights=True if named and from_timm else named,
            classes=dim,
            **OPTIONS.get(kind, {}),
        )
        facts = smp.encoders.get_preprocessing_params(encoder, named) if named else {}
    if weights is not None and named is None:
        fill(model.encoder, read_checkpoint(weights), weights)
    multiple = FACTORS.get(kind, 1) * model.encoder.output_stride
    return LibraryStudent(model, model.encoder, _input(multiple, facts))


def _input(multiple: int, facts: Mapping[str, Any]) -> InputSpec:
    if not facts:
        return InputSpec(multiple)
    scale = 1 / facts["input_range"][1]  # to units of pixel / 255
    bgr = facts["input_space"] == "BGR"
    mean, std = (
        channels(facts[key][::-1] if bgr else facts[key], scale) for key in ("mean", "std")
    )
    return InputSpec(multiple, None, mean, std, bgr)
