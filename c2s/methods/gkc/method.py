"""The objective of GKC: matched queries learn masks, classes in several words, and the teacher's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from c2s.methods.base import Facts, Method
from c2s.methods.batch import Batch
from c2s.methods.gkc.distillation import distil
from c2s.methods.gkc.diversification import Words, draw
from c2s.methods.gkc.examples import LATENT, NONE, GKCBatch
from c2s.methods.gkc.grounding import NO_WORD, draw_words, ground, regions_of
from c2s.methods.gkc.mask_loss import at_points, brought_to, mask_losses, uncertain_points
from c2s.methods.gkc.matching import Matches, cost, likelihood, match
from c2s.methods.gkc.settings import GKCSettings
from c2s.students.base import Student
from c2s.students.query import Queries, QueryStudent

COSTS = (5.0, 5.0, 2.0)
"""Weights of binary cross-entropy, dice and class in the matching: Mask2Former's, whatever those of the losses are."""


class GKC(Method):
    """Queries matched to segments, set after set, with the same losses and weights for each set.

    Args:
        config: the settings.
        facts: the seen classes, their words, the teacher's logit scale, and the student that is to learn.
    """

    text: Tensor
    channel: Tensor
    every_word: Tensor

    def __init__(self, config: GKCSettings, facts: Facts) -> None:
        super().__init__()
        self.config = config
        student = facts.student
        assert isinstance(student, QueryStudent)
        if facts.unseen is not None:
            raise ValueError("gkc has no self-training: it learns nothing of its own predictions")
        ids, text = list(facts.seen.ids), torch.from_numpy(facts.seen.embeddings)
        channel = torch.full((facts.first_latent_id + 1,), NONE)  # the last: of no class
        channel[ids] = torch.arange(len(ids))
        self.register_buffer("text", text.float(), persistent=False)
        self.register_buffer("channel", channel, persistent=False)
        self.score_scale = config.synonyms.scale or facts.logit_scale
        if config.synonyms.how != "off":
            self.words = Words(facts.words or facts.seen)
        if config.weights.grounding:
            assert facts.every_word is not None
            every = torch.from_numpy(facts.every_word)
            self.register_buffer("every_word", every, persistent=False)
        if config.distillation != "none" and config.student_token == "prior":
            dim = text.shape[1]
            self.distilled = nn.ModuleList(
                nn.Linear(student.width, dim) for _ in range(student.sets)
            )
        if config.distillation == "text":
            self.text_scale = nn.Parameter(torch.ones(()))

    def forward(
        self, student: Callable[..., Queries], images: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Losses "bce", "dice", "ce", "distillation" and whatever else has a weight, each the sum over the sets, and
        their weighted sum "loss"."""
        assert isinstance(batch, GKCBatch)
        frames = self.config.frames
        return self.losses(student(images, frames) if frames > 1 else student(images), batch)

    def beginnings(
        self, student: Student, images: Tensor, batch: Batch
    ) -> dict[str, Callable[[], Iterable[Tensor]]]:
        """The student, and the matching of its queries, which has no gradient of its own."""
        assert isinstance(batch, GKCBatch)
        frames = self.config.frames

        def queries(matched: bool) -> Iterable[Tensor]:
            found: Queries = student(images, frames)
            if matched:
                self.matches(found, segment_masks(batch), batch)
            return *found.masks, *found.embeddings

        return {"student": lambda: queries(False), "matching": lambda: queries(True)}

    def losses(self, found: Queries, batch: GKCBatch) -> dict[str, Tensor]:
        """See `forward`.

        Args:
            found: what the student's queries say; computed upon in float32 whatever the precision.
            batch: the batch, on the same device.
        """
        with torch.autocast(batch.tokens.device.type, enabled=False):
            masks = segment_masks(batch)
            channels = self.channel[batch.classes.clamp(min=NONE)]
            number = _mean_number((batch.classes != NONE).sum())
            pairs = self.matches(found, masks, batch)
            sums = {name: found.embeddings[0].new_zeros(()) for name in ("bce", "dice", "ce")}
            sums["distillation"] = sums["contrast"] = sums["grounding"] = sums["bce"]
            nouns = self._nouns(batch)
            for i, matches in enumerate(pairs):
                drawn = self._drawn(matches, channels, batch)
                bce, dice = self._mask_losses(found.masks[i].float(), masks, matches, number)
                sums["bce"], sums["dice"] = sums["bce"] + bce, sums["dice"] + dice
                sums["ce"] = sums["ce"] + self._class_loss(
                    found, i, matches, channels, batch, drawn
                )
                if self.config.distillation != "none":
                    term = self._distillation(found, i, matches, channels, batch, drawn)
                    sums["distillation"] = sums["distillation"] + term
                if self.config.weights.contrast:
                    term = self._contrast(found, i, matches, batch)
                    sums["contrast"] = sums["contrast"] + term
                if nouns is not None:
                    term = self._grounding(found, i, matches, nouns)
                    sums["grounding"] = sums["grounding"] + term
            weights = self.config.weights
            total = sum(getattr(weights, name) * value for name, value in sums.items())
        return {"loss": torch.as_tensor(total), **sums}

    @torch.no_grad()
    def matches(self, found: Queries, masks: Tensor, batch: GKCBatch) -> list[Matches]:
        """Pairs of queries and segments of every set, by the plain class names; the costs of all sets leave the device
        together.

        Args:
            found: what the student's queries say.
            masks: `segment_masks` of the batch.
            batch: the batch.
        """
        points, columns = self.config.points, self._columns(batch)
        costs = []
        for logits, embeddings in zip(found.masks, found.embeddings, strict=True):
            if points:
                place = torch.rand(1, points, 2, device=masks.device).expand(len(masks), -1, -1)
                sampled = self._at(logits.float(), place), self._at(masks, place)
            else:
                sampled = logits.float().flatten(2), brought_to(masks, *logits.shape[-2:])
            classes = self._with_latent(
                found.logits(embeddings, self.text), found, embeddings, batch
            )
            likely = likelihood(classes.softmax(-1), columns)
            costs.append(cost(*sampled, likely, COSTS, self.config.frames))
        together = torch.stack(costs).flatten(0, 1)
        pairs = match(together, (batch.classes != NONE).repeat(len(costs), 1))
        sets = pairs.image // len(masks)
        return [
            Matches(*(v[sets == i] for v in (pairs.image % len(masks), pairs.query, pairs.segment)))
            for i in range(len(costs))
        ]

    def _at(self, masks: Tensor, points: Tensor) -> Tensor:
        """Values of masks [B, M, T h, w] at the same P points [B, P, 2] of each of their frames: [B, M, T P]."""
        each = rearrange(masks, "b m (t h) w -> b (m t) h w", t=self.config.frames)
        return rearrange(at_points(each, points), "b (m t) p -> b m (t p)", t=self.config.frames)

    def _mask_losses(
        self, logits: Tensor, masks: Tensor, matches: Matches, number: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means over all frames, of whose masks each has its own points."""
        image, query, segment = matches
        if not len(image):
            return logits.sum() * 0, logits.sum() * 0
        ours, theirs = logits[image, query], masks[image, segment]  # [M, T h, w], [M, T S, S]
        config = self.config
        if config.points:
            ours, theirs = (
                rearrange(v, "m (t h) w -> (m t) h w", t=config.frames) for v in (ours, theirs)
            )
            points = uncertain_points(ours, config.points, config.oversample, config.important)
            values, wanted = (
                rearrange(at_points(v[:, None], points), "(m t) 1 p -> m (t p)", t=config.frames)
                for v in (ours, theirs)
            )
        else:
            values = ours.flatten(1)
            wanted = brought_to(theirs[:, None], *ours.shape[-2:])[:, 0]
        return mask_losses(values, wanted, number, config.frames)

    def _drawn(self, matches: Matches, channels: Tensor, batch: GKCBatch) -> Tensor | None:
        """A word for each matched segment, float32 [M, D], where words are drawn; of latent ones anything."""
        settings = self.config.synonyms
        if settings.how != "random":
            return None
        image, _, segment = matches
        of_class = channels[image, segment].clamp(min=0)
        scores = self.words.scores(batch.tokens[image, segment], of_class, self.score_scale)
        there = self.words.there[of_class]
        chosen = draw(scores, there, settings.sampling, settings.threshold)
        return self.words.drawn(of_class, chosen)

    def _class_loss(
        self,
        found: Queries,
        i: int,
        matches: Matches,
        channels: Tensor,
        batch: GKCBatch,
        drawn: Tensor | None,
    ) -> Tensor:
        """Cross-entropy over the seen classes and no object, of all queries but those that answer for a latent
        region, those that are dropped, and those of images without a segment."""
        image, query, segment = matches
        embeddings, how = found.embeddings[i], self.config.synonyms.how
        plain = found.logits(embeddings, self.text)  # [B, Q, C + 1]
        target = torch.full(plain.shape[:2], len(self.text), device=plain.device)
        target[(batch.classes == NONE).all(1)] = -100
        of_class, column = channels[image, segment], self._columns(batch)[image, segment]
        dropped = torch.rand(len(of_class), device=plain.device) < self.config.region_dropout
        target[image, query] = torch.where(dropped | (column < 0), -100, column)
        logits = plain
        if how in ("average", "maximum"):
            every = found.logits(embeddings, self.words.embeddings.flatten(0, 1))
            classes = self.words.logits(every[..., :-1], how)
            logits = torch.cat([classes, every[..., -1:]], -1)
        elif drawn is not None:
            vectors = F.normalize(embeddings[image, query].float(), dim=-1)
            known = of_class >= 0
            at = (image[known], query[known], of_class[known])
            worded = found.scale * (vectors * drawn).sum(-1)[known]
            logits = plain.index_put(at, worded)
        loss = self._cross_entropy(self._with_latent(logits, found, embeddings, batch), target)
        if self.config.plain_weight:
            ratio = self.config.plain_weight / max(self.config.weights.ce, 1e-12)
            named = self._with_latent(plain, found, embeddings, batch)
            loss = loss + ratio * self._cross_entropy(named, target)
        return loss

    def _columns(self, batch: GKCBatch) -> Tensor:
        """Place of each segment's class among the logits of `_with_latent`, int64 [B, N]; -1 where it has none."""
        columns: Tensor = self.channel[batch.classes.clamp(min=NONE)]
        if self.config.latent != "classes":
            return columns
        own = len(self.text) + 1 + torch.arange(columns.shape[1], device=columns.device)
        return torch.where(batch.classes == LATENT, own, columns)

    def _with_latent(
        self, logits: Tensor, found: Queries, embeddings: Tensor, batch: GKCBatch
    ) -> Tensor:
        """Class logits [B, Q, C + 1], and where latent regions are classes those of all N segments of the image, by
        their tokens in place of a text: [B, Q, C + 1 + N], -inf of segments that are no latent regions."""
        if self.config.latent != "classes":
            return logits
        tokens = F.normalize(batch.tokens, dim=-1)
        vectors = F.normalize(embeddings.float(), dim=-1)
        more = found.scale * vectors @ tokens.mT
        return torch.cat(
            [logits, more.masked_fill((batch.classes != LATENT)[:, None], -torch.inf)], -1
        )

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """A mean by weight; 0 where there is no target."""
        weight = torch.ones(logits.shape[-1], device=logits.device)
        weight[len(self.text)] = self.config.nothing_weight
        counted = weight[target.clamp(min=0)] * (target >= 0)
        terms = F.cross_entropy(logits.mT, target, weight, reduction="none")
        return terms.sum() / counted.sum().clamp(min=1e-12)

    def _distillation(
        self,
        found: Queries,
        i: int,
        matches: Matches,
        channels: Tensor,
        batch: GKCBatch,
        drawn: Tensor | None,
    ) -> Tensor:
        image, query, segment = matches
        config = self.config
        if config.student_token == "prior":
            ours = self.distilled[i](found.shared[i][image, query].float())
        else:
            ours = found.embeddings[i][image, query]
        texts = self.text[channels[image, segment].clamp(min=0)] if drawn is None else drawn
        latent = batch.classes[image, segment] == LATENT
        scale = self.text_scale if config.distillation == "text" else self.text.new_ones(())
        tokens = batch.tokens[image, segment]
        return distil(
            config.distillation, ours, tokens, texts, image, latent, scale, config.distance
        )

    def _contrast(self, found: Queries, i: int, matches: Matches, batch: GKCBatch) -> Tensor:
        """Each matched query tells its segment's token from those of all matched segments of the batch, as far as
        the tokens themselves do; on the embeddings that classes are told by."""
        image, query, segment = matches
        if not len(image):
            return found.embeddings[i].sum() * 0
        ours = F.normalize(found.embeddings[i][image, query].float(), dim=-1)
        tokens = F.normalize(batch.tokens[image, segment], dim=-1)
        wanted = (found.scale.detach() * tokens @ tokens.mT).softmax(-1)
        return F.cross_entropy(found.scale.detach() * ours @ tokens.mT, wanted)

    def _nouns(self, batch: GKCBatch) -> Tensor | None:
        """Words of a caption of each image for all sets of a step, int64 [B, W]; None: captions have no weight."""
        if not self.config.weights.grounding:
            return None
        assert batch.captions is not None
        settings = self.config.grounding
        return draw_words(batch.captions, settings.dropped, settings.words)

    def _grounding(self, found: Queries, i: int, matches: Matches, nouns: Tensor) -> Tensor:
        """On the embeddings that classes are told by, with their scale."""
        regions = regions_of(found.embeddings[i].float(), matches, self.config.grounding.regions)
        words = self.every_word[nouns.clamp(min=0)]
        return ground(words, nouns != NO_WORD, *regions, found.scale)


def segment_masks(batch: GKCBatch) -> Tensor:
    """One mask for each segment of a batch, float32 [B, N, T S, S]."""
    masks = F.one_hot(batch.segments + 1, batch.classes.shape[1] + 1)[..., 1:]
    return masks.permute(0, 3, 1, 2).float()


def _mean_number(count: Tensor) -> Tensor:
    """Segments of a process, on average over all of a training; at least 1."""
    number = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(number)
        number = number / torch.distributed.get_world_size()
    return number.clamp(min=1)
