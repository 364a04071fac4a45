"""Invariant: what a teacher is follows from its configuration; no weights are read, drawn or held to say it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from c2s_cache import ConfigError
from c2s_cache.plugins import CODE
from c2s_pipeline.extras import require
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.clip_names import check_names
from c2s_pipeline.teachers.image_teacher import Preprocessing
from c2s_pipeline.teachers.open_clip_teacher import blank_towers, tower_of
from c2s_pipeline.teachers.registry import GROUP, load_teacher
from c2s_pipeline.teachers.tower import Tower
from c2s_pipeline.teachers.transformers_teacher import blank_model, is_transformers

LICENCES = (
    {
        "mobileclip": "Apple AMLR",
        "nllb": "CC-BY-NC-4.0",
        "siglip": "Apache-2.0",
        "pe-core": "Apache-2.0",
        "clipa": "Apache-2.0",
        "eva": "MIT",
    },
    {
        "openai": "MIT",
        "laion": "MIT",
        "commonpool": "MIT",
        "datacomp": "MIT",
        "metaclip": "CC-BY-NC-4.0",
        "dfn": "Apple AMLR",
    },
)
"""Of published weights, by a word of their model's name, or else of their tag. What is not here is not known, and the
authors' pages decide."""


@dataclass(frozen=True)
class Entry:
    """A model that can be asked for: its name, the family of its image tower (None: none that is known here), whether
    c2s distils from it, and why not."""

    name: str
    family: str | None
    accepted: bool
    why: str | None = None


@dataclass(frozen=True)
class Card:
    """Facts about a teacher.

    Attributes:
        name, family: as in `Entry`.
        dim: width D of the joint space.
        image_size, patch_size: native side and side of a patch, pixels.
        grid: height and width of the native dense features.
        variants: names of the dense features that it can give; None: only a class of one's own knows.
        resize_mode, interpolation: see `c2s_cache.manifest.TeacherInfo`.
        parameters, text_parameters: of the image tower and of the text tower; None: not known here.
        gflops: multiply-accumulates of the image tower for one image, in units of 1e9; None: not known.
        weights: licence (None: not known) by weight tag.
    """

    name: str
    family: str
    dim: int
    image_size: int
    patch_size: int
    grid: tuple[int, int]
    variants: tuple[str, ...] | None
    resize_mode: str
    interpolation: str
    parameters: int | None
    text_parameters: int | None
    gflops: float | None
    weights: dict[str, str | None]


def catalogue() -> list[Entry]:
    """All models of open_clip, in its order, then the teachers that other packages bring."""
    found = []
    for name in require("open_clip", "build").list_models():
        try:
            found.append(Entry(name, tower_of(name).family, True))
        except ConfigError as error:
            found.append(Entry(name, None, False, error.what))
    return found + [Entry(e.name, "plug-in", True) for e in entry_points(group=GROUP)]


def card(name: str) -> Card:
    """Facts about a teacher, whatever its name means.

    Raises:
        ConfigError, MissingExtra, C2SError: there is none of that name, or c2s cannot distil from it.
    """
    if name.startswith(CODE) or entry_points(group=GROUP, name=name.partition(":")[0]):
        return _loaded(name)
    if is_transformers(name):
        return _card(*blank_model(name))
    check_names(name, None)
    return _card(*blank_towers(name))


def licence(name: str, tag: str) -> str | None:
    """Of published weights; None: not known."""
    for said, known in zip((name, tag), LICENCES, strict=True):
        for word, found in known.items():
            if word in said.lower():
                return found
    return None


def _card(tower: Tower, ways: Preprocessing, image: nn.Module, text: nn.Module | None) -> Card:
    size, name = tower.image_size, tower.name
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        tower.embed(torch.zeros(1, 3, size, size))
    tags = require("open_clip", "build").list_pretrained_tags_by_model(name)
    return Card(
        name=name,
        family=tower.family,
        dim=tower.dim,
        image_size=size,
        patch_size=tower.patch_size,
        grid=(size // tower.patch_size,) * 2,
        variants=tower.variants,
        resize_mode=ways.resize_mode,
        interpolation=ways.interpolation,
        parameters=_count(image),
        text_parameters=None if text is None else _count(text),
        gflops=round(counter.get_total_flops() / 2e9, 2),
        weights={tag: licence(name, tag) for tag in tags},
    )


def _loaded(name: str) -> Card:
    """Of a class of somebody's own, which is made for it."""
    teacher = load_teacher(TeacherSpec(name))
    info = teacher.info()
    return Card(
        name=name,
        family="plug-in",
        dim=info.dim,
        image_size=info.image_size,
        patch_size=teacher.patch_size,
        grid=info.grid,
        variants=None,
        resize_mode=info.resize_mode,
        interpolation=info.interpolation,
        parameters=None,
        text_parameters=None,
        gflops=None,
        weights={},
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
