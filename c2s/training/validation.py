"""Scores of the running student on labelled images.

Invariant: scores leave this callback as numbers; no name or label of an unseen class reaches training,
and none has a part in the score that may stop it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from c2s.datasets.descriptor import TestProtocol
from c2s.datasets.split import LabelledImage
from c2s.evaluation.classifier import Classifier
from c2s.evaluation.confusion import METRICS, ConfusionMatrix
from c2s.evaluation.inference import Mode, Predictor
from c2s.evaluation.oracle import SegmentScores, oracle_names
from c2s.methods.batch import Batch
from c2s.runs.config import TrainConfig, ValidationConfig
from c2s.runs.tensors import require_finite
from c2s.students.grouping import GroupingStudent
from c2s.text import cached_text
from c2s.training.iteration import IterationCallback
from c2s.training.module import DistillationModule
from c2s.vocabulary import Vocabulary
from c2s_cache.label_map import without
from c2s_cache.manifest import Manifest
from c2s_cache.reader import Cache

MONITORED = "val/seen_mIoU"
ORACLE = "val/oracle_mIoU"


@dataclass(frozen=True)
class ValidationSet:
    """Labelled images of the run's data set, whose ids are those of the cache, and how they are tested on."""

    items: Sequence[LabelledImage]
    protocol: TestProtocol = TestProtocol()  # noqa: RUF009 it is frozen


ValidationSetFactory = Callable[[TrainConfig, Manifest], ValidationSet]
"""Finds the images that `validation` asks for; the command line brings one that knows the data sets."""


class Validation(IterationCallback):
    """Scores the student (the averaged one, if there is one) every so many iterations.

    Logs val/sIoU, val/uIoU, ... as `c2s eval` computes them, and val/seen_mIoU: the mean IoU of the seen
    classes among themselves, on pixels labelled with them. That last score is what
    `patience` watches. Of a student that cuts images into segments also val/oracle_mIoU: every segment named by its
    commonest class. All are in per cent; one without a pixel to measure is left out. Several
    processes share the images.

    Args:
        config: when to score, and how long to wait for a better one.
        data: the images.
        cache: text embeddings of all classes, and which are unseen.
        image_size: side of the training views in pixels.
        seen_offset: taken off the scores of seen classes, where the unseen ones take part.
    """

    def __init__(
        self,
        config: ValidationConfig,
        data: ValidationSet,
        cache: Cache,
        image_size: int,
        seen_offset: float = 0.0,
    ) -> None:
        self.config, self.data, self.size = config, data, image_size
        self.seen_offset = seen_offset
        manifest, text = cache.manifest, cached_text(cache, "all")
        self.words = Vocabulary(manifest.classes, text.embeddings, manifest.unseen)
        self.best, self.waited = -1.0, 0  # any score is better

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.config.patience is not None and self.waited >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Best score so far, and how many scores came since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.best, self.waited = state["best"], state["waited"]

    def on_iteration_end(
        self, trainer: pl.Trainer, module: DistillationModule, outputs: Any, batch: Batch
    ) -> None:
        """Score if it is time to; ask the trainer to stop if patience has run out."""
        if module.step % self.config.every:
            return
        module.require_finite_losses()
        require_finite(
            module.trained_student.state_dict(), f"the student of iteration {module.step}"
        )
        scores = self.scores(trainer, module)
        for logger in trainer.loggers:
            logger.log_metrics(scores, module.step)
        score = scores.get(MONITORED, -1.0)
        self.best, self.waited = (score, 0) if score > self.best else (self.best, self.waited + 1)
        if self.exhausted:
            trainer.should_stop = True

    def scores(self, trainer: pl.Trainer, module: DistillationModule) -> dict[str, float]:
        """Scores of the student as it is, in per cent, the same in every process.

        Raises:
            ScoresError: what it gives for an image is not finite.
        """
        student = module.trained_student
        training = student.training
        model = Classifier(student, torch.from_numpy(np.ascontiguousarray(self.words.embeddings)))
        predictor = self._predictor(model.eval(), module)
        segments = None
        if isinstance(student, GroupingStudent):
            segments = self._predictor(SegmentScores(student), module, "whole")
        classes, unseen = len(self.words.classes), self.words.unseen
        every, seen, oracle = (ConfusionMatrix(classes) for _ in range(3))
        only_seen = torch.zeros(classes, device=module.device)
        only_seen[list(unseen)] = math.inf
        offset = None
        if self.seen_offset:
            offset = torch.full((classes,), self.seen_offset, device=module.device)
            offset[list(unseen)] = 0
        for item in self.data.items[trainer.global_rank :: trainer.world_size]:
            image, labels = item.read()
            best, best_seen = predictor.best(image, [offset, only_seen], item.id)
            every.update(labels, best)
            seen.update(without(labels, unseen), best_seen)
            if segments is not None:
                oracle.update(labels, oracle_names(segments.predict(image, item.id), labels))
        student.train(training)
        for matrix in (every, seen, oracle):
            counts = torch.from_numpy(matrix.counts).to(module.device)
            matrix.counts = trainer.strategy.reduce(counts, reduce_op="sum").cpu().numpy()
        metrics = every.metrics(unseen)
        found = {f"val/{name}": getattr(metrics, name) for name in METRICS}
        found[MONITORED] = seen.metrics(unseen).sIoU
        found[ORACLE] = oracle.metrics(unseen).mIoU
        return {k: 100 * v for k, v in found.items() if not math.isnan(v)}

    def _predictor(
        self, model: nn.Module, module: DistillationModule, mode: Mode | None = None
    ) -> Predictor:
        test = module.config.method.protocol(self.data.protocol, self.size)
        place, mode = module.device, mode or self.config.mode
        return Predictor(model.to(place), test.view_size, mode, place, test.stride, test.short_side)
