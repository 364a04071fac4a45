"""Transductive self-training: pixels of unseen classes are labelled by the running model."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c2s.methods.base import Facts
from c2s.methods.clip_to_seg.examples import ClipToSegBatch
from c2s.methods.clip_to_seg.method import ClipToSeg
from c2s.methods.clip_to_seg.settings import ClipToSegSettings
from c2s.methods.feature_map import FeatureMap


class SelfTraining(ClipToSeg):
    """C2S with the unseen names known (Table II, the protocol of the ZegCLIP family).

    The pixel loss runs over all classes. A pixel whose annotation was removed is labelled with the
    unseen class that the current features fit best, without gradient; seen classes are never
    candidates. Pixels that the data set itself ignores stay without supervision. Latent embeddings
    have no part in it; distillation stays as the configuration says.

    Args:
        config: the switches; `latent_embedding` is taken as off.
        facts: the seen classes and the unseen ones.
    """

    unseen_ids: Tensor

    def __init__(self, config: ClipToSegSettings, facts: Facts) -> None:
        assert facts.unseen is not None
        every = replace(facts, seen=facts.seen + facts.unseen)
        super().__init__(config.model_copy(update={"latent_embedding": False}), every)
        self.register_buffer("unseen_ids", torch.tensor(facts.unseen.ids), persistent=False)

    def pixel_loss(
        self,
        features: FeatureMap,
        batch: ClipToSegBatch,
        embeddings: Float[Tensor, "B U D"],
        valid: Bool[Tensor, "B U"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Eq. 7 over all classes, against seen labels and the model's own unseen ones."""
        labelled = replace(batch, pseudo=self.labelled(features.tensor, batch))
        return super().pixel_loss(features, labelled, embeddings, valid)

    @torch.no_grad()
    def labelled(
        self, features: Float[Tensor, "B D h w"], batch: ClipToSegBatch
    ) -> Int[Tensor, "B S S"]:
        """Labels of a batch: seen ones as annotated, unseen ones by the running model.

        Args:
            features: F, float [B, D, h, w].
            batch: with `unseen`.

        Returns:
            int64 [B, S, S]: the seen id where annotated; an unseen id at pixels of unseen classes, or
            -1 where the softmax probability of that class among all classes is below `confidence`;
            -1 elsewhere.

        Raises:
            ValueError: the batch does not say which pixels are of unseen classes.
        """
        if batch.unseen is None:
            raise ValueError("self-training needs to know which pixels are of unseen classes")
        pseudo = batch.pseudo
        size = (pseudo.shape[1], pseudo.shape[2])
        unit = functional.normalize(features, dim=1)
        scores = torch.einsum("bdhw,nd->bnhw", unit, self.text)
        if self.config.confidence > 0:
            scores = (self.config.alpha * scores).softmax(1)
        unseen = scores[:, -len(self.unseen_ids) :]
        best, index = functional.interpolate(
            unseen, size, mode="bilinear", align_corners=False
        ).max(1)
        labels = self.unseen_ids[index]
        if self.config.confidence > 0:
            labels = torch.where(best >= self.config.confidence, labels, -1)
        seen = torch.where(pseudo < self.first_latent_id, pseudo, -1)
        return torch.where(batch.unseen, labels, seen)
