"""Invariant: what GKC reads of a cache is named here; without latent regions nothing of it belongs to a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s.methods.batch import Batch
from c2s.methods.examples import (
    BOX,
    FLIP,
    PIXELS,
    CutView,
    TeacherOutput,
    TrainingExample,
    batch_fields,
    padded,
    source_map,
    stacked,
    view_fields,
)
from c2s_cache.manifest import IGNORE, Manifest
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.views import crop_labels

ID, CLASS, MAP, THING = "segments/id", "segments/class", "instances/map", "clips/thing"
TOKEN = {"spatial": "segments/spatial", "global": "segments/cls"}
CAPTIONS = "captions/word"
REGION_CLS, REGION_ID, GRID = "regions/cls", "regions/id", "masks/grid"
NONE, LATENT = -1, -2
"""In place of the class of a segment: there is none, or it is a region of a class that nobody annotated."""


@dataclass(frozen=True, kw_only=True)
class GKCExample(TrainingExample):
    """One view in numpy; fields as in `GKCBatch`, without the batch axis, N not padded. `things` [N]: segments of one
    class and number in the frames of a clip are one thing."""

    segments: NDArray[np.int16]
    classes: NDArray[np.int16]
    tokens: NDArray[np.floating]
    things: NDArray[np.int32]
    captions: Sequence[NDArray[np.int32]] = ()


@dataclass(frozen=True, kw_only=True)
class GKCBatch(Batch):
    """Views of B images with their segments and the teacher's token of each. Of clips of T frames, B is their number
    in all but the fields of `Batch`, whose B T views come frame after frame.

    Attributes:
        segments: int64 [B, T S, S], number of the segment at every pixel, frame below frame, -1: none.
        classes: int64 [B, N], class id of each segment, -1 in padded slots, -2 of a latent region.
        tokens: float32 [B, N, D], not normalised, zero in padded slots.
        captions: int64 [B, C, L], numbers of the words of each image's captions, of a clip those of its frames one
            after the other, -1 in padded slots; None: not read.
    """

    segments: Tensor
    classes: Tensor
    tokens: Tensor
    captions: Tensor | None = None


class GKCExamples:
    """What GKC learns from a view: the segments that it shows.

    Args:
        manifest: of the cache.
        segments: whether annotated segments have the tokens of the stage of that name, or those of the regions.
        token: "spatial" or "global", of the former.
        latent: whether the regions of no annotated class are segments, too.
        captions: whether the words of captions are read.
        frames: T, of a clip that become one sample.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        segments: bool,
        token: str,
        latent: bool,
        captions: bool,
        frames: int = 1,
    ) -> None:
        self.first_latent_id = manifest.num_classes
        self.frames = frames
        self.segments, self.latent, self.captions = segments, latent, captions
        self.token = TOKEN[token]
        own, taught = set[str](), set[str]()
        if segments:
            own = {ID, CLASS, self.token}
            if "instances" in manifest.stage("segments").upstream:
                own |= {MAP, THING} if frames > 1 else {MAP}
        if captions:
            own.add(CAPTIONS)
        if latent or not segments:
            taught = {REGION_CLS, REGION_ID, *({GRID} if latent else ())}
        self.teacher_paths = frozenset(taught)
        self.paths = (PIXELS & manifest.arrays.keys()) | own | taught
        self.pixel_bytes = 5  # three of colour, two of segments

    def example(self, view: CutView, teacher: TeacherOutput) -> GKCExample:
        """Segments that the view does not show are left out: their masks would be empty."""
        numbers, ids, classes, tokens = self._annotated(view, teacher)
        # Without a map of things, those of a class are one.
        things = (
            view.sample[THING][ids - 1] if THING in self.paths else np.zeros(len(ids), np.int32)
        )
        slots = _slots(numbers, ids)
        if self.latent:
            region_ids = teacher[REGION_ID]
            new = np.flatnonzero(region_ids >= self.first_latent_id)
            labels, inside = view.crop.labels, view.crop.inside
            pseudo = pseudo_mask(labels, teacher[GRID], self.first_latent_id, inside)
            more = _slots(np.where(slots >= 0, NONE, pseudo), region_ids[new])
            slots = np.where(more >= 0, more + len(ids), slots)
            classes = np.concatenate([classes, np.full(len(new), LATENT, np.int16)])
            tokens = np.concatenate([tokens, teacher[REGION_CLS][new]])
            things = np.concatenate([things, np.zeros(len(new), np.int32)])
        shown = np.unique(slots[slots >= 0])
        renumbered = np.full(len(classes) + 1, NONE, np.int16)  # the last: no segment
        renumbered[shown] = np.arange(len(shown))
        return GKCExample(
            **view_fields(view),
            segments=renumbered[slots],
            classes=classes[shown],
            tokens=tokens[shown],
            things=things[shown],
            captions=_captions(view.sample[CAPTIONS]) if self.captions else (),
        )

    def _annotated(
        self, view: CutView, teacher: TeacherOutput
    ) -> tuple[NDArray[np.integer], NDArray[np.int16], NDArray[np.int16], NDArray[np.float16]]:
        """What tells the pixels of annotated segments, [S, S]; and of each its value there, class and token."""
        sample, labels = view.sample, view.crop.labels
        known = np.where(labels == IGNORE, NONE, labels.astype(np.int16))
        if not self.segments:
            ids = teacher[REGION_ID]
            seen = np.flatnonzero(ids < self.first_latent_id)
            return known, ids[seen], ids[seen], teacher[REGION_CLS][seen]
        if MAP in self.paths:
            place = (sample[BOX], bool(sample[FLIP]), labels.shape[0])
            numbers = crop_labels(source_map(sample, MAP), *place)  # 255 on padding
            known = np.where(numbers == IGNORE, 0, numbers).astype(np.int16)
        return known, sample[ID], sample[CLASS], sample[self.token]

    def collate(self, examples: Sequence[GKCExample]) -> GKCBatch:
        """Segments are padded to the largest number among the samples (at least one slot), captions likewise."""
        samples = examples
        if self.frames > 1:
            groups = range(0, len(examples), self.frames)
            samples = [_joined(examples[i : i + self.frames]) for i in groups]
        return GKCBatch(
            **batch_fields(examples),
            segments=stacked([e.segments for e in samples], np.int64),
            classes=padded([e.classes for e in samples], NONE, np.int64),
            tokens=padded([e.tokens for e in samples], 0, np.float32),
            captions=_together([e.captions for e in samples]) if self.captions else None,
        )


def _joined(frames: Sequence[GKCExample]) -> GKCExample:
    """The frames of a clip as one: a segment is a thing in all frames, its token the mean over those that show it."""
    keys = [list(zip(e.classes.tolist(), e.things.tolist(), strict=True)) for e in frames]
    every = list(dict.fromkeys(key for each in keys for key in each))
    places = [np.array([*map(every.index, each), NONE], np.int16) for each in keys]
    tokens = np.zeros((len(every), frames[0].tokens.shape[1]), np.float32)
    for e, place in zip(frames, places, strict=True):
        tokens[place[:-1]] += e.tokens
    shown = np.bincount(np.concatenate([place[:-1] for place in places]), minlength=len(every))
    classes, things = np.array(every, np.int32).reshape(-1, 2).T
    return replace(
        frames[0],
        segments=np.concatenate([p[e.segments] for e, p in zip(frames, places, strict=True)]),
        classes=classes.astype(np.int16),
        tokens=tokens / shown[:, None],
        things=things,
        captions=[caption for e in frames for caption in e.captions],
    )


def _slots(values: NDArray[np.integer], ids: NDArray[np.integer]) -> NDArray[np.int16]:
    """Place in `ids` of every value, -1 of one that is not there."""
    largest = int(max(values.max(initial=0), ids.max(initial=0)))
    table = np.full(largest + 2, NONE, np.int16)  # the last: of -1
    table[ids] = np.arange(len(ids))
    found: NDArray[np.int16] = table[values]
    return found


def _captions(words: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The captions of an image, each without the -1 behind its last word."""
    ends = np.flatnonzero(words == NONE)
    return [caption[:-1] for caption in np.split(words, ends + 1)[:-1]]


def _together(captions: Sequence[Sequence[NDArray[np.int32]]]) -> Tensor:
    """Those of a batch as `GKCBatch` has them, with at least one slot each way."""
    count = max(map(len, captions)) or 1
    longest = max((len(words) for each in captions for words in each), default=1)
    out = np.full((len(captions), count, longest), NONE, np.int64)
    for i, each in enumerate(captions):
        for j, words in enumerate(each):
            out[i, j, : len(words)] = words
    return torch.from_numpy(out)
