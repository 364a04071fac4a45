"""Invariant: a cell is known by its settings: the name of its run folder is a digest of all that decides it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s.evaluation.confusion import METRICS
from c2s.methods.grid import column
from c2s.runs.checkpoint import RunError, read_state, saved_step
from c2s.runs.config import TrainConfig
from c2s.runs.folder import read_config
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.training.logs import read_metrics
from c2s_cache.errors import ConfigError
from c2s_cache.fingerprint import canonical_json, digest
from c2s_cache.lock import locked
from c2s_cache.plugins import CODE

if TYPE_CHECKING:
    from c2s.datasets import Dataset
    from c2s.datasets.split import LabelledImage
    from c2s.evaluation.background import Background
    from c2s.runs.run import Run
    from c2s.vocabulary import Vocabulary

INDIFFERENT = frozenset(
    {
        "cache",
        "name",
        "runs",
        "seed",
        "workers",
        "view_cache_gib",
        "teacher_weights",
        "log_every",
        "checkpoint_every",
        "loggers",
    }
)
"""Fields that do not change what a run learns, and the seed, which a run's name spells out. Cache and teacher
are known by their fingerprints, wherever they lie."""


@dataclass(frozen=True)
class Scoring:
    """What finished runs are scored on: a split of a data set, all of it or its first images, and that of other data
    sets, among whose own classes pixels are told apart."""

    dataset: str
    root: Path | None = None
    split: str = "val"
    limit: int | None = None
    others: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[Scoring, ...]:
        """On every data set by itself, the first one's first."""
        alone = replace(self, others=())
        return (alone, *(replace(alone, dataset=name) for name in self.others))

    @property
    def file(self) -> str:
        """Where in a run folder the scores lie."""
        some = "" if self.limit is None else f"-{self.limit}"
        return f"scores/{self.dataset.replace('/', '_')}-{self.split}{some}.json"

    def images(self) -> tuple[Dataset, Sequence[LabelledImage]]:
        """The data set, and the labelled images to score on.

        Raises:
            ConfigError: no such data set or split, or it is empty.
            DataError: it is not there.
        """
        from c2s.datasets import load_dataset

        data = load_dataset(self.dataset, self.root)
        items = list(data.split(self.split))[: self.limit]
        if not items:
            raise ConfigError(f"The split {self.split} of {self.dataset} has no image to score.")
        return data, items


def run_name(config: TrainConfig, cache: dict[str, Any]) -> str:
    """Name of a cell's run folder: equal for equal settings, on whatever path the cache lies.

    Defaults are left out of the digest, so that a field that is new in a later version renames nothing;
    `stored_scores` compares every field.

    Args:
        config: resolved for the cache.
        cache: what identifies the cache, JSON values.
    """
    decides = config.model_dump(mode="json", exclude=_indifferent(config), exclude_defaults=True)
    code = digest(canonical_json({"train": decides, "cache": cache}))[:10]
    student = re.sub(r"[^\w.-]+", "-", config.student)  # smp:unet/resnet34 is no name of a folder
    return f"{student}-{code}-seed{config.seed}"


def stored_scores(config: TrainConfig, scoring: Scoring) -> dict[str, Any] | None:
    """Scores of a cell that is finished: its run folder holds this configuration, trained to its end."""
    path = config.runs / config.run_name
    try:
        if not _same(_stored(path, config), config) or not _trained(path, config):
            return None
        return _joined(scoring, [read_sealed(path / s.file) for s in scoring.each])
    except (RunError, OSError, ValueError):
        return None


def _stored(path: Path, config: TrainConfig) -> TrainConfig:
    """Configuration of the run that is there; of code it imports no other than what the cell has asked for."""
    return read_config(path, allow_code=config.method.name.startswith(CODE))


def run_cell(config: TrainConfig, scoring: Scoring) -> dict[str, Any]:
    """Train what is not trained yet, or go on where it stopped, and score it.

    Args:
        config: resolved; its run folder is this cell's alone.
        scoring: what to score on.

    Returns:
        `EvalResult.as_dict()` with `seconds` of training, and its figures on other data sets as "mIoU@context"; also
        in the run folder, each data set's under its `Scoring.file`.

    Raises:
        C2SError: see `c2s.training.run` and `c2s.evaluation.evaluate`.
    """
    path = config.runs / config.run_name
    with _alone(path):
        stored = stored_scores(config, scoring)
        if stored is not None:
            return stored
        _train(config, path)
        seconds, results = training_seconds(path, config.batch_size), []
        for number, each in enumerate(scoring.each):
            results.append({**_evaluate(path, each, across=number > 0), "seconds": seconds})
            (path / each.file).parent.mkdir(exist_ok=True)
            write_sealed(path / each.file, results[-1])
        return _joined(scoring, results)


def _joined(scoring: Scoring, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first data set's result, and of the others their figures under the name of the column."""
    first, *others = results
    found = zip(scoring.others, others, strict=True)
    return first | {column(d, name): result[name] for d, result in found for name in METRICS}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is at this run; two commands may so share a folder.

    The kernel ends the wait when the other one dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = RunError(f"Another process is training or scoring {path}.", "Wait for it.")
    with locked(lock_file(path), busy, math.inf, required=False):
        yield


def lock_file(path: Path) -> Path:
    """What guards a run, by whatever path it was named; there only while it is held."""
    path = path.resolve()
    return path.with_name(f".{path.name}.lock")


def training_seconds(path: Path, batch_size: int) -> float:
    """Seconds that a run spent on its iterations, loading included, summed over interruptions."""
    seconds, before = 0.0, 0
    for record in read_metrics(path):
        seconds += (record["step"] - before) * batch_size / record["images_per_s"]
        before = record["step"]
    return round(seconds, 1)


def _train(config: TrainConfig, path: Path) -> None:
    from c2s.online import load_online_teacher
    from c2s.training.run import resume, train
    from c2s.validation_set import load_validation_set

    try:
        resumable = _same(_stored(path, config), config) and saved_step(path) is not None
    except RunError:
        resumable = False
    if resumable:
        resume(path, load_online_teacher, load_validation_set, allow_code=True)
    else:
        train(config, True, load_online_teacher, load_validation_set)


def _trained(path: Path, config: TrainConfig) -> bool:
    """Whether a run's checkpoint is its last: at the end of the schedule, or stopped early for good."""
    state = read_state(path)
    return state.complete or state.step >= config.total


def _evaluate(path: Path, scoring: Scoring, across: bool) -> dict[str, Any]:
    """Scores of a run as `c2s eval` gives them, and `images_per_s`; across data sets, and of a run without classes of
    its own, by the names of the data set's. Where its method finds the background by a threshold, it is so here."""
    from c2s.evaluation.evaluate import evaluate, predictor
    from c2s.runs.run import open_run

    data, items = scoring.images()
    run = open_run(path, allow_code=True)  # its student is the plan's, which was asked for
    named = across or not run.info.classes
    words = _named(run, data) if named else _own(run, data)
    background = _background(run, data)
    device = "cpu" if run.config.accelerator == "cpu" else "auto"
    scored = words if background is None else words.without(background.id)
    model = predictor(run, scored, device=device, protocol=data.protocol)
    offset = 0.0 if named else run.seen_offset
    return evaluate(model, items, words, seen_offsets=(offset,), background=background).as_dict()


def _background(run: Run, data: Dataset) -> Background | None:
    """The class without a text, where a data set has one and the run's method a threshold for it."""
    from c2s.evaluation.background import Background

    empty, usual = data.protocol.background, run.config.method.background_threshold(data.name)
    return None if empty is None or usual is None else Background(empty, (usual,))


def _own(run: Run, data: Dataset) -> Vocabulary:
    from c2s.evaluation.evaluate import check_classes

    check_classes(run, data.classes, data.name)
    return run.vocabulary


def _named(run: Run, data: Dataset) -> Vocabulary:
    from c2s.evaluation.vocabulary import foreign_vocabulary
    from c2s.text_tower import class_embeddings

    embeddings = class_embeddings(run, [name for names in data.names for name in names])
    return foreign_vocabulary(run, data.names, embeddings, data.classes)


def _indifferent(config: TrainConfig) -> dict[str, Any]:
    """What of a configuration decides nothing, as pydantic's `exclude` has it."""
    fields: dict[str, Any] = dict.fromkeys(INDIFFERENT, True)
    if config.views == "cached":
        fields["augment"] = True  # of the views that would be drawn anew
    watched = config.validation is not None and config.validation.patience is not None
    fields["validation"] = {"root"} if watched else True  # unwatched scores are only recorded
    return fields


def _same(stored: TrainConfig, config: TrainConfig) -> bool:
    """Whether two configurations learn the same from the same cache."""
    if stored.seed != config.seed:
        return False
    first, second = (c.model_dump(exclude=_indifferent(c)) for c in (stored, config))
    return first == second
