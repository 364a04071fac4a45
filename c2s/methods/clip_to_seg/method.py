"""The objective of C2S (Eq. 8): L = L_g + L_l + L_s."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c2s.methods.base import Facts, Method
from c2s.methods.batch import Batch
from c2s.methods.clip_to_seg.dense_distillation import (
    cell_means,
    cells_inside,
    dense_distillation,
)
from c2s.methods.clip_to_seg.examples import ClipToSegBatch
from c2s.methods.clip_to_seg.global_distillation import (
    CLSBank,
    aggregation_weights,
    info_nce,
    match,
    others,
)
from c2s.methods.clip_to_seg.latent_embedding import LatentEmbedding, latent_ids
from c2s.methods.clip_to_seg.local_distillation import (
    local_info_nce,
    reduce_regions,
    region_weights,
)
from c2s.methods.clip_to_seg.residual import ResidualProjector
from c2s.methods.clip_to_seg.settings import ClipToSegSettings
from c2s.methods.feature_map import FeatureMap
from c2s.methods.fused_pixel_loss import pixel_losses
from c2s.methods.gkc.diversification import Words, draw
from c2s.methods.pixel_loss import class_scores

WORD_THRESHOLD = 0.1
"""Score of Eq. 1 of GKC that a word needs to be drawn, as in its released code."""


class Pooled(NamedTuple):
    """Means of a feature map.

    `image` F_g, float [B, 1, D] (no row with global distillation off); `local` F_l, float [B, R, D], and
    `pixels`, int64 [B, R], of the regions with a CLS token (R = 0 with local distillation off); `latent`
    int64 [B, U], ids of the latent classes, -1 in empty slots, and `prototypes` F_u, float [B, U, D], of
    them (U = 0 with latent embeddings off).
    """

    image: Tensor
    local: Tensor
    pixels: Tensor
    latent: Tensor
    prototypes: Tensor


class ClipToSeg(Method):
    """CLIP-to-Seg distillation with latent embeddings.

    Args:
        config: the switches.
        facts: the seen classes, and the first latent id; nothing of the unseen ones is used here.

    Raises:
        ValueError: the embeddings' width is no multiple of the attention heads.
    """

    text: Tensor
    channel: Tensor
    worded: Tensor

    def __init__(self, config: ClipToSegSettings, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.first_latent_id = facts.first_latent_id
        ids, text = list(facts.seen.ids), torch.from_numpy(facts.seen.embeddings)
        channel = torch.full((facts.first_latent_id,), -1, dtype=torch.int64)
        channel[ids] = torch.arange(len(ids))
        # Both follow from the run's text, so they are not part of the checkpoint.
        self.register_buffer("text", text.float(), persistent=False)
        self.register_buffer("channel", channel, persistent=False)
        if config.text_diversification:
            assert facts.words is not None
            self.words = Words(facts.words)
            self.word_scale = facts.logit_scale
            worded = torch.full_like(channel, -1)
            worded[list(facts.words.ids)] = torch.arange(len(facts.words.ids))
            self.register_buffer("worded", worded, persistent=False)
        dim = text.shape[1]
        if config.global_distillation and config.distillation == "infonce":
            self.bank = CLSBank(config.bank_size, dim)
        if (
            config.global_distillation or config.local_distillation
        ) and config.distillation == "residual":
            self.residual = ResidualProjector(dim, config.residual_scale)
        if config.latent_embedding:
            if config.generator == "transformer" and dim % config.heads:
                raise ValueError(f"method.heads={config.heads} does not divide the width {dim}.")
            self.latent = LatentEmbedding(
                dim, config.generator, config.calibration, config.heads, config.dropout
            )

    def forward(
        self, student: Callable[..., Tensor], images: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Losses of the student's features; see `losses`."""
        assert isinstance(batch, ClipToSegBatch)
        return self.losses(student(images), batch)

    def losses(
        self, features: Float[Tensor, "B D h w"], batch: ClipToSegBatch
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses "global", "local", "dense", "cells", "focal", "dice", "ce", "pixel" (those that are on) and their
        sum "loss".

        Args:
            features: F, float [B, D, h, w]; computed upon in float32 whatever the precision.
            batch: the batch, on the device of the features.
        """
        weights = self.config.weights
        with torch.autocast(features.device.type, enabled=False):
            fmap = FeatureMap(features.float())
            pooled = self._pooled(fmap, batch)
            losses: dict[str, Tensor] = {}
            total = fmap.tensor.new_zeros(())
            if self.config.global_distillation:
                losses["global"] = self.global_distillation(pooled.image[:, 0], batch)
                total = total + weights.global_distillation * losses["global"]
            if self.config.local_distillation:
                losses["local"] = self.local_distillation(pooled.local, pooled.pixels, batch)
                total = total + weights.local_distillation * losses["local"]
            if weights.dense_distillation:
                assert batch.dense is not None
                side = batch.image.shape[-1]
                losses["dense"] = dense_distillation(fmap.tensor, batch.dense, batch.extent, side)
                total = total + weights.dense_distillation * losses["dense"]
            if weights.cell_distillation:
                losses["cells"] = self.cell_distillation(fmap.tensor, batch)
                total = total + weights.cell_distillation * losses["cells"]
            losses |= self.pixel_loss(fmap, batch, *self._latent_embeddings(pooled, batch))
            total = total + weights.pixel * losses["pixel"]
        return {"loss": total, **losses}

    def _pooled(self, features: FeatureMap, batch: ClipToSegBatch) -> Pooled:
        """All means in one product: each alone would cost a pass over F."""
        config, size = self.config, (features.height, features.width)
        none, largest = batch.region_ids[:, :0], batch.largest_id()
        latent = (
            latent_ids(batch.pseudo, self.first_latent_id, largest)
            if config.latent_embedding
            else none
        )
        regions = batch.region_ids if config.local_distillation else none
        over_regions, pixels = region_weights(batch.pseudo, regions, *size, largest)
        over_latent, _ = region_weights(batch.pseudo, latent, *size, largest)
        over_image = over_regions[:, :0]
        if config.global_distillation and config.aggregation != "max":
            how = config.aggregation
            over_image = aggregation_weights(features, batch.global_cls, how)[:, None]
        weights = (over_image, over_regions, over_latent)
        means = features.sums(torch.cat(weights, 1))
        image, local, prototypes = torch.split(means, [w.shape[1] for w in weights], 1)
        if config.global_distillation and config.aggregation == "max":
            image = features.tensor.amax((2, 3))[:, None]
        return Pooled(image, local, pixels, latent, prototypes)

    def global_distillation(
        self, global_feature: Float[Tensor, "B D"], batch: ClipToSegBatch
    ) -> Float[Tensor, ""]:
        """Eq. 4 against the tokens of earlier iterations; the bank takes this batch's after.

        Args:
            global_feature: F_g, float [B, D].
            batch: the batch.
        """
        config = self.config
        if config.distillation != "infonce":
            return self._match(global_feature, batch.global_cls).mean()
        negatives = self.bank.filled().clone()
        if config.bank_size == 0 or config.global_negatives == "both":
            earlier = negatives.expand(len(batch), -1, -1)
            negatives = torch.cat([others(batch.global_cls), earlier], 1)
        loss = info_nce(global_feature, batch.global_cls, negatives, config.tau, config.normalize)
        if self.training:
            self.bank.enqueue(batch.global_cls)
        return loss

    def local_distillation(
        self,
        local_features: Float[Tensor, "B R D"],
        pixels: Int[Tensor, "B R"],
        batch: ClipToSegBatch,
    ) -> Float[Tensor, ""]:
        """Eq. 6 over the regions that have a CLS token.

        Args:
            local_features: F_l, float [B, R, D].
            pixels: int64 [B, R], pixels of each region.
            batch: the batch.
        """
        return self._local(local_features, batch.region_cls, pixels, batch.region_ids)

    def cell_distillation(
        self, features: Float[Tensor, "B D h w"], batch: ClipToSegBatch
    ) -> Float[Tensor, ""]:
        """Eq. 6 over the cells of grids in place of regions, those whose centre shows the image; no two are of one
        class for certain.

        Args:
            features: F, float [B, D, h, w].
            batch: with `cells`.
        """
        assert batch.cells is not None
        side = batch.image.shape[-1]
        means, pixels = [], []
        for scale in batch.scales:
            means.append(cell_means(features, scale, scale).flatten(1, 2))
            size = torch.full(
                (len(batch), scale, scale), side**2 // scale**2, device=features.device
            )
            if batch.extent is not None:
                size = torch.where(cells_inside(batch.extent, scale, scale, side), size, 0)
            pixels.append(size.flatten(1))
        count = batch.cells.shape[1]
        ids = (self.first_latent_id + torch.arange(count, device=features.device)).expand(
            len(batch), -1
        )
        return self._local(torch.cat(means, 1), batch.cells, torch.cat(pixels, 1), ids)

    def _local(
        self,
        features: Float[Tensor, "B R D"],
        tokens: Float[Tensor, "B R D"],
        pixels: Int[Tensor, "B R"],
        ids: Int[Tensor, "B R"],
    ) -> Float[Tensor, ""]:
        """Eq. 6, or another distillation of Table VI, of parts [B, R, D] against their tokens."""
        config = self.config
        valid = pixels > 0
        if config.distillation != "infonce":
            terms = self._match(features, tokens)
            return reduce_regions(terms, valid, config.local_reduction, pixels)
        return local_info_nce(
            features,
            tokens,
            valid,
            config.tau,
            config.normalize,
            config.local_reduction,
            config.local_negatives,
            ids,
            self.first_latent_id,
            config.same_class,
            config.local_targets,
            pixels,
        )

    def _match(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distillations of Table VI other than InfoNCE, per pair of vectors [..., D]: [...]."""
        kind = self.config.distillation
        if kind == "residual":
            return match(self.residual(student), teacher, "cosine")
        assert kind != "infonce"
        return match(student, teacher, kind)

    def pixel_loss(
        self,
        features: FeatureMap,
        batch: ClipToSegBatch,
        embeddings: Float[Tensor, "B U D"],
        valid: Bool[Tensor, "B U"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Eq. 7 on seen and latent scores; with latent embeddings off (U = 0), on the seen ones.

        Args:
            features: F, [B, D, h, w].
            batch: the batch.
            embeddings: A'_u, float [B, U, D].
            valid: bool [B, U], which slots hold one.
        """
        config = self.config
        scores = class_scores(
            features,
            self._text(batch),
            embeddings,
            config.alpha,
            config.beta,
            config.normalize_seen,
        )
        target = self._target(batch.pseudo, valid, batch.largest_id())
        if config.supervision == "features":
            target = _nearest(target, scores.shape[2], scores.shape[3])
        absent = torch.cat([valid.new_zeros(len(valid), len(self.text)), ~valid], 1)
        return pixel_losses(scores, target, absent, config.weights)

    def _text(self, batch: ClipToSegBatch) -> Float[Tensor, "*n Ns D"]:
        """A_s: [1, Ns, D], or with words drawn for each image [B, Ns, D]."""
        if not self.config.text_diversification:
            return self.text[None]
        ids = batch.region_ids
        annotated = (ids >= 0) & (ids < self.first_latent_id)
        known = annotated & (self.worded[ids.clamp(0, self.first_latent_id - 1)] >= 0)
        image, slot = known.nonzero(as_tuple=True)
        classes = ids[image, slot]
        of_class = self.worded[classes]
        scores = self.words.scores(batch.region_cls[image, slot], of_class, self.word_scale)
        chosen = draw(scores, self.words.there[of_class], "threshold", WORD_THRESHOLD)
        text = self.text.repeat(len(batch), 1, 1)
        text[image, self.channel[classes]] = self.words.drawn(of_class, chosen)
        return text

    def _latent_embeddings(self, pooled: Pooled, batch: ClipToSegBatch) -> tuple[Tensor, Tensor]:
        """A'_u [B, U, D] and which slots are valid [B, U]; U = 0 with latent embeddings off."""
        if not self.config.latent_embedding:
            return pooled.prototypes, pooled.latent >= 0
        embeddings, valid = self.latent(
            pooled.latent, pooled.prototypes, batch.global_cls, batch.region_cls, batch.region_ids
        )
        return embeddings, valid

    def _target(self, pseudo: Tensor, valid: Tensor, max_id: int) -> Tensor:
        """Channel of every pixel: seen classes, then latent slot u at Ns + u; else -1.

        Args:
            pseudo: int64 [B, S, S].
            valid: bool [B, U], latent slots that have an embedding.
            max_id: no id in `pseudo` is larger.
        """
        slots = torch.arange(valid.shape[1], device=pseudo.device) + len(self.text)
        latent = torch.where(valid, slots, slots.new_tensor(-1))  # [B, U]
        beyond = max(max_id + 1 - self.first_latent_id - valid.shape[1], 0)
        table = torch.cat(
            [
                self.channel.new_full((len(pseudo), 1), -1),
                self.channel.expand(len(pseudo), -1),
                latent,
                self.channel.new_full((len(pseudo), beyond), -1),
            ],
            dim=1,
        )  # [B, 1 + N + U (+ latent ids that have no slot)], indexed by id + 1
        return table.gather(1, (pseudo + 1).flatten(1)).view_as(pseudo)


def _nearest(target: Tensor, height: int, width: int) -> Tensor:
    """Targets [B, H, W] sampled at the centres of height x width cells."""
    rows, cols = target.shape[1:]
    y = ((torch.arange(height, device=target.device) + 0.5) * rows / height).long()
    x = ((torch.arange(width, device=target.device) + 0.5) * cols / width).long()
    return target[:, y[:, None], x[None, :]]
