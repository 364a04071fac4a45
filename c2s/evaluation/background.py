"""A background class that nobody names: where no other class fits well enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c2s.evaluation.inference import Predictor


@dataclass(frozen=True)
class Background:
    """What is background, as the family of GroupViT has it.

    Attributes:
        id: of the class.
        thresholds: on the best score of a pixel, as the student gives scores: probabilities of a student that groups,
            cosines of one of features. Below it a pixel is background. Where an image's largest score is smaller, that
            counts in place of the threshold, so that something is always foreground.
    """

    id: int
    thresholds: tuple[float, ...]

    def predictions(
        self, model: Predictor, image: NDArray[np.uint8], name: str
    ) -> list[NDArray[np.int64]]:
        """Class of every pixel, int64 [H, W], at each threshold.

        Args:
            model: scores all classes but this one.
            image: uint8 RGB [H, W, 3].
            name: of the image.

        Raises:
            ScoresError: a score is not finite.
        """
        best, scores = model.top(image, name)
        classes = best.astype(np.int64) + (best >= self.id)  # this one is not among the model's
        return [
            np.where(scores < min(threshold, scores.max()), self.id, classes)
            for threshold in self.thresholds
        ]
