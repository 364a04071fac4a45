"""Evaluation of a run on a labelled split: student and text embeddings, nothing else.

Invariant: generalised: a pixel may be given any class of the vocabulary, seen or unseen.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from c2s.datasets.descriptor import TestProtocol
from c2s.datasets.shapes import usual_protocol
from c2s.datasets.split import LabelledImage
from c2s.evaluation.background import Background
from c2s.evaluation.classifier import Classifier
from c2s.evaluation.confusion import METRICS, ConfusionMatrix, Metrics
from c2s.evaluation.inference import Mode, Predictor
from c2s.plain_torch import plain_torch
from c2s.runs.config import TrainConfig
from c2s.runs.run import Run
from c2s.vocabulary import Vocabulary
from c2s_cache.errors import ConfigError
from c2s_cache.label_map import LabelMap, without

ACROSS = (
    "To score across data sets say where the text embeddings come from: --vocabulary CACHE, FILE.npy, "
    "or names."
)


@dataclass(frozen=True)
class EvalResult:
    """Metrics of a run on a split.

    Attributes:
        sweep: metrics, as fractions, by offset on the seen classes or threshold of the background, in the order asked
            for.
        classes: class names in the dataset's order.
        unseen: ids of the unseen classes.
        images: number of images.
        seconds: of inference and counting; the next image is read meanwhile.
        pixels: that are annotated, by class id.
        ignored: pixels that are not.
        swept: "seen_offset" or "background_threshold".
    """

    sweep: dict[float, Metrics]
    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    images: int
    seconds: float
    pixels: Mapping[int, int] = field(default_factory=dict)
    ignored: int = 0
    swept: str = "seen_offset"

    @property
    def metrics(self) -> Metrics:
        """Metrics at the first offset or threshold."""
        return next(iter(self.sweep.values()))

    def as_dict(self) -> dict[str, Any]:
        """JSON form: all `METRICS` in per cent and `classes`, at the first offset.

        `classes` lists dicts with id, name, iou (per cent) and unseen; None = not measured. `sweep`
        lists the means at every offset, if there are several.
        """
        m = self.metrics
        sweep = [{self.swept: o, **_means(each)} for o, each in self.sweep.items()]
        return {
            **_means(m),
            **({"sweep": sweep} if len(sweep) > 1 else {}),
            "images": self.images,
            "images_per_s": round(self.images / self.seconds, 3) if self.seconds > 0 else None,
            "classes": [
                {
                    "id": i,
                    "name": name,
                    "iou": _per_cent(float(m.iou[i])),
                    "unseen": i in self.unseen,
                }
                for i, name in enumerate(self.classes)
            ],
        }

    def as_csv(self) -> str:
        """Lines with, per class, id, name, iou (per cent; empty = not measured), unseen; the means below, without
        id. Offsets after the first have a column `iou@OFFSET` each."""
        columns = {
            "iou" if i == 0 else f"iou@{offset:g}": metrics
            for i, (offset, metrics) in enumerate(self.sweep.items())
        }
        lines = io.StringIO()
        writer = csv.writer(lines)
        first, *others = columns
        writer.writerow(["id", "name", first, "unseen", *others])
        for i, name in enumerate(self.classes):
            value, *more = (_per_cent(float(m.iou[i])) for m in columns.values())
            writer.writerow([i, name, value, i in self.unseen, *more])
        for name in METRICS:
            value, *more = (_per_cent(getattr(m, name)) for m in columns.values())
            writer.writerow(["", name, value, "", *more])
        return lines.getvalue()


@plain_torch()
def predictor(
    run: Run,
    vocabulary: Vocabulary | None = None,
    *,
    mode: Mode = "slide",
    device: str | torch.device = "auto",
    protocol: TestProtocol | None = None,
    classifier: nn.Module | None = None,
) -> Predictor:
    """A predictor of a run.

    Args:
        run: opened run.
        vocabulary: the classes; default: the run's own.
        mode: "slide" or "whole".
        device: "auto" takes a GPU if there is one.
        protocol: stride and short side, in proportion to the run's training views; default: `usual_protocol`.
        classifier: what scores the classes instead of the student: the run folded (c2s.deploy).

    Raises:
        ConfigError: the device does not exist.
    """
    place, words = compute_device(device), vocabulary or run.vocabulary
    if classifier is None:
        classifier = Classifier(run.student, torch.from_numpy(words.embeddings), words.counts)
    data = protocol or usual_protocol(run.info.dataset)
    test = run.config.method.protocol(data, run.config.image_size or run.info.view_size)
    return Predictor(
        classifier.to(place),
        test.view_size,
        mode,
        place,
        test.stride,
        test.short_side,
        remedy=_remedy(run.config),
    )


def _remedy(config: TrainConfig) -> str:
    """What to do about a run whose scores are not finite."""
    exact = "" if config.precision == "32-true" else " or precision=32-true"
    return f"Train it again; where that is the cause, with a lower --set lr{exact}."


def compute_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" takes a GPU if there is one.

    Raises:
        ConfigError: it does not exist.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.ones(1, device=place).sum().item()  # the meta device has no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"Device {device} cannot be used: {reason}") from error
    return place


@plain_torch()
def evaluate(
    model: Predictor,
    items: Sequence[LabelledImage],
    vocabulary: Vocabulary,
    *,
    seen_offsets: Sequence[float] = (0.0,),
    ignored: Sequence[int] = (),
    background: Background | None = None,
    frames: int = 1,
    advance: Callable[[int], None] | None = None,
) -> EvalResult:
    """Segment every item over all classes and count, at every offset or threshold from one pass.

    Args:
        model: scores the classes of the vocabulary; with a background by threshold, all but this.
        items: labelled images whose ids are those of the vocabulary.
        vocabulary: names of the classes, and which are unseen.
        seen_offsets: gamma, subtracted from the scores of the seen classes; a run's own protocol is
            `Run.seen_offset`. Others are to be chosen on other images than those that are reported.
        ignored: ids of classes that are left out: never predicted, their pixels not counted.
        background: the class that a pixel has where the best score is below a threshold. Offsets and classes that are
            left out have no part then.
        frames: of a clip that go through the model together (see `Predictor.best_of_clip`); 1: every item alone.
        advance: called with the items that are done, e.g. to move a bar.

    Raises:
        ConfigError: there is no item, or frames are to go together that are not of a clip, or of several sizes.
        ScoresError: the student's scores of an item are not finite.
    """
    if not len(items):
        raise ConfigError("There is no image to evaluate on.")
    settings = seen_offsets if background is None else background.thresholds
    confusions = {setting: ConfusionMatrix(len(vocabulary.classes)) for setting in settings}
    never, seen = torch.zeros(2, len(vocabulary.classes), device=model.device)
    never[list(ignored)] = torch.inf
    seen[list(vocabulary.seen)] = 1
    penalties = [never + o * seen if o else never if len(ignored) else None for o in confusions]
    seconds = 0.0
    coming = _read_ahead(items)
    for group in _clips(items, frames) if frames > 1 else ([item] for item in items):
        held = [next(coming) for _ in group]
        images, name = [image for image, _ in held], group[0].id
        began = time.perf_counter()
        every: Iterable[Iterable[NDArray[np.integer]]]
        if background is not None:
            every = [background.predictions(model, image, name) for image in images]
        elif frames > 1:
            every = model.best_of_clip(images, penalties, name)
        else:
            every = [model.best(image, penalties, name) for image in images]
        for (_, labels), predictions in zip(held, every, strict=True):
            for confusion, prediction in zip(confusions.values(), predictions, strict=True):
                confusion.update(without(labels, ignored), prediction)
        seconds += time.perf_counter() - began
        if advance is not None:
            advance(len(group))
    unseen = vocabulary.unseen
    sweep = {offset: confusion.metrics(unseen) for offset, confusion in confusions.items()}
    first = next(iter(confusions.values()))
    pixels = dict(enumerate(first.counts.sum(1).tolist()))
    return EvalResult(
        sweep,
        vocabulary.classes,
        unseen,
        len(items),
        seconds,
        pixels,
        first.ignored,
        "seen_offset" if background is None else "background_threshold",
    )


def _clips(items: Sequence[LabelledImage], frames: int) -> Iterator[list[LabelledImage]]:
    """Frames of a clip that follow each other, so many together at most."""
    for clip, group in groupby(items, lambda item: item.split.clip(item.id)):
        if clip is None:
            raise ConfigError(f"{items[0].split.name} has no clips whose frames go together.")
        yield from map(list, batched(group, frames))


def batched(values: Iterable[Any], count: int) -> Iterator[tuple[Any, ...]]:
    """So many values after the other together; the last may be fewer."""
    rest = iter(values)
    while held := tuple(islice(rest, count)):
        yield held


def _read_ahead(
    items: Sequence[LabelledImage],
) -> Iterator[tuple[NDArray[np.uint8], LabelMap]]:
    """What the items hold, in order; each is read while the one before it is scored."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(items[0].read)
        for following in items[1:]:
            ready, coming = coming, pool.submit(following.read)
            yield ready.result()
        yield coming.result()


def check_classes(run: Run, classes: Sequence[str], dataset: str) -> None:
    """Refuse a dataset whose class list is not that of the run.

    Raises:
        ConfigError: names the first class that differs.
    """
    for i, (ours, theirs) in enumerate(zip(run.info.classes, classes, strict=False)):
        if ours != theirs:
            raise ConfigError(
                f"Class {i} of {dataset} is {theirs!r}, but {run.path} was trained with {ours!r}.",
                ACROSS,
            )
    if len(classes) != len(run.info.classes):
        raise ConfigError(
            f"{dataset} has {len(classes)} classes, but {run.path} was trained with "
            f"{len(run.info.classes)}.",
            ACROSS,
        )


def _means(metrics: Metrics) -> dict[str, float | None]:
    return {name: _per_cent(getattr(metrics, name)) for name in METRICS}


def _per_cent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * value, 4)
