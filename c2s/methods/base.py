"""Invariant: a method turns features and a cache batch into losses, and knows no trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from c2s.methods.batch import Batch


@dataclass(frozen=True)
class KnownClasses:
    """Classes that a method may know: the seen ones, and how many there are in all.

    A transductive method is given the unseen ones in a second object of this kind.

    Attributes:
        ids: int64 [Ns], ids of these classes in the dataset's order, ascending.
        embeddings: float32 [Ns, D], their text embeddings, unit norm.
        num_classes: N, number of all classes; latent class u has id N + u in a pseudo mask.
    """

    ids: Tensor
    embeddings: Tensor
    num_classes: int


class Method(nn.Module, ABC):
    """One paper's objective. Its buffers and parameters live in the training checkpoint only.

    A further method is a folder beside `clip_to_seg/` with a subclass of this and a frozen
    configuration whose `build(seen)` constructs it; inference needs neither.

    Attributes:
        num_classes: N, number of all classes of the dataset.
    """

    num_classes: int

    @abstractmethod
    def forward(self, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Losses of one step.

        Args:
            features: [B, D, h, w], the student's feature map.
            batch: the batch the features were computed from, on the same device.

        Returns:
            Scalars by name; "loss" is the one to minimise, the others are for the log.
        """
