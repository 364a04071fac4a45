"""Invariant: `config.json` says all that a folded model needs besides its weights, and where it is from.

The weights know its digest: either file alone may be neither edited nor exchanged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from c2s_cache.errors import C2SError
from c2s_cache.fingerprint import canonical_json, digest
from c2s_cache.text_file import read_text

LARGEST = 1 << 24
"""Bytes of a `config.json` that is read; those of a thousand classes have a hundredth of it."""


class ModelError(C2SError):
    """A folded model is missing, damaged, in the way, or cannot be exported."""


class Scores(BaseModel):
    """A result of `c2s eval`, in per cent; None = not measured."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    split: str
    setting: str
    mode: str
    seen_offset: float
    folded: bool
    images: int
    sIoU: float | None
    uIoU: float | None
    hIoU: float | None
    pAcc: float | None
    mIoU: float | None
    mAcc: float | None


class ModelInfo(BaseModel):
    """What `config.json` holds.

    Attributes:
        format: 1.
        kind: "folded": the embeddings are in the student's last layer; "asked": they are tensors beside it,
            with which it is asked (`Student.classify`).
        student: its name, the architecture.
        architecture: what the student says of itself beyond its name (`Student.architecture`).
        dim: width of the text embeddings.
        classes: names in the order of the logits.
        names: per class those whose embeddings it has, the mean of several.
        unseen: ids of the classes that training never annotated.
        crop: side of the training views and of the sliding window in pixels.
        mean, std: normalisation of the inputs, RGB, in units of pixel / 255.
        dataset: name of the data set it was trained on.
        iterations: of that training.
        transductive: whether the training knew the names of the unseen classes.
        backbone: pretrained weights that the training started from; None: the student's default.
        teacher: name, pretrained, digest and activation of the CLIP whose text embeddings are folded in.
        license: its identifier on the Hugging Face hub.
        versions: of the packages that folded it.
        scores: results of the run on these classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    kind: Literal["folded", "asked"]
    student: str
    architecture: dict[str, Any] | None = None
    dim: int = Field(gt=0)
    classes: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    unseen: tuple[int, ...]
    crop: int = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dataset: str
    iterations: int
    transductive: bool
    backbone: str | None
    teacher: dict[str, Any]
    license: str
    versions: dict[str, str]
    scores: tuple[Scores, ...] = ()


def encode_info(info: ModelInfo) -> dict[str, Any]:
    """JSON form."""
    return info.model_dump(mode="json")


def info_digest(info: ModelInfo) -> str:
    """SHA-256 of what it says; of what is as it is by default, nothing."""
    return digest(canonical_json(info.model_dump(mode="json", exclude_defaults=True)))


def read_info(folder: Path) -> ModelInfo:
    """Contents of a folded model's `config.json`.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    file = folder / "config.json"
    if not file.exists():
        raise ModelError(
            f"{folder} has no config.json, so it is no folded c2s model.",
            "Make one with: c2s fold --run RUN --out DIR",
        )
    try:
        return decode_info(json.loads(read_text(file, most=LARGEST, error=ModelError)))
    except (ValueError, RecursionError) as error:
        raise damaged(folder, error) from error


def damaged(folder: Path | str, error: Exception) -> ModelError:
    """The error of a folded model whose `config.json` is no JSON, or is nested without end."""
    reason = (str(error).splitlines() or [""])[0][:100]
    return ModelError(
        f"{folder}/config.json is damaged ({reason}).",
        "Make it again with: c2s fold --run RUN --out DIR --overwrite",
    )


def decode_info(facts: Any) -> ModelInfo:
    """The reverse of `encode_info`.

    Raises:
        ModelError: names the first key that is missing, unknown or wrong.
    """
    try:
        info = ModelInfo.model_validate(facts)
        encode_info(info)  # what is nested too deep fails here, and not where it is written
        return info
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ModelError(
            f"config.json is not that of a folded c2s model ({where}: {first['msg']}).",
            "Make one with: c2s fold --run RUN --out DIR",
        ) from error
    except ValueError as error:
        raise ModelError(
            f"config.json is not that of a folded c2s model ({error}).",
            "Make one with: c2s fold --run RUN --out DIR",
        ) from error
