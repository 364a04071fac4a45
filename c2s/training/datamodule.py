"""Invariant: batches go on from the trainer's global step, which is all that resuming needs to know."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from c2s.methods.batch import Batch
from c2s.methods.examples import CutView
from c2s.runs.config import TrainConfig
from c2s.training.clips import clips_of
from c2s.training.online import TeacherInTheLoop
from c2s.training.sampler import BatchSequence
from c2s.training.stream import BatchStream, block_sizes, loader, view_cache_bytes
from c2s_cache.errors import ConfigError
from c2s_cache.reader import Cache, open_cache


class C2SDataModule(pl.LightningDataModule):
    """The training batches of a cache, in the order that the configuration's seed gives.

    The stream has no epochs for Lightning to count: give the Trainer `max_steps`. Every process
    loads its part of each batch; a Trainer that resumes goes on with the batch after its last one.

    Args:
        config: the run; its cache, batch size, seed, jitter, window and workers are read here.
        cache: the opened cache, if it is open already.
        teacher: CLIP in the loop; None if the cache tells what it says.

    Raises:
        CacheError: the cache is missing, incomplete or damaged, or its clips are not as the method asks.
        ConfigError: it holds no usable image, or several views of each where frames go together.
    """

    def __init__(
        self,
        config: TrainConfig,
        cache: Cache | None = None,
        teacher: TeacherInTheLoop | None = None,
    ) -> None:
        super().__init__()
        self.cache = cache or open_cache(config.cache, config.method.read_stages(), config.parts)
        manifest = self.cache.manifest
        self.config = config.resolved(manifest)
        self.teacher = teacher
        self.examples = config.method.examples(manifest, config.self_train is not None)
        sizes = block_sizes(self.cache)
        if sum(sizes) == 0:
            raise ConfigError(
                f"{config.cache} has no usable image.", f"See: c2s cache info {config.cache}"
            )
        frames = config.method.clip_frames
        if frames > 1 and config.views == "cached" and manifest.views > 1:
            raise ConfigError(
                f"method.frames {frames}: {config.cache} has {manifest.views} views of a row, and those of the frames "
                "of a clip show other parts of them.",
                "Draw one for all frames (--set views=fresh), or build a cache with one view.",
            )
        clips = clips_of(self.cache, frames) if frames > 1 else ()
        self.sequence = BatchSequence(
            *(sizes, config.batch_size, config.seed, config.shuffle_blocks, manifest.views),
            *(frames, clips),
        )

    def train_dataloader(self) -> DataLoader[Batch | list[CutView]]:
        """The batches that the trainer has still to see.

        Raises:
            ConfigError: there is no Trainer, it has no `max_steps`, or it does not divide the batches as
                the configuration does.
        """
        trainer, config = self.trainer, self.config
        if trainer is None:
            raise ConfigError(
                "A C2SDataModule loads batches for the Trainer that fits it, and has none yet.",
                "Call Trainer(max_steps=N).fit(module, data); without a Trainer, iterate data.stream(0, N).",
            )
        if trainer.max_steps < 0:
            raise ConfigError("The batches of a cache never end.", "Give the Trainer max_steps.")
        if trainer.accumulate_grad_batches != config.accumulate:
            raise ConfigError(
                f"The Trainer accumulates {trainer.accumulate_grad_batches} batches, the configuration "
                f"{config.accumulate}.",
                "Set accumulate in the one and accumulate_grad_batches in the other alike.",
            )
        frames = config.method.clip_frames
        if config.batch_size % (trainer.world_size * config.accumulate * frames):
            raise ConfigError(
                f"batch_size {config.batch_size} is no multiple of {trainer.world_size} processes x "
                f"accumulate {config.accumulate}{f' x {frames} frames' if frames > 1 else ''}."
            )
        on_gpu = trainer.strategy.root_device.type == "cuda"
        start, stop = trainer.global_step, trainer.max_steps
        part = (trainer.global_rank, trainer.world_size)
        return loader(self.stream(start, stop, *part), config.workers, on_gpu)

    def transfer_batch_to_device(
        self, batch: Batch | list[CutView], device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch, from page-locked memory without waiting; an online teacher answers it first."""
        if isinstance(batch, list):
            assert self.teacher is not None
            answers = zip(batch, self.teacher.answer(batch), strict=True)
            batch = self.examples.collate([self.examples.example(v, a) for v, a in answers])
        return batch.to(device, non_blocking=True)

    def require_unchanged(self, step: int) -> None:
        """Make sure that the cache is still what it was where iteration `step` (from 1) has read it.

        A run may hold what it needs in memory and read nothing any more.

        Raises:
            CacheError: as for `Cache.require_unchanged`.
        """
        blocks = {ref.block for ref in self.sequence.batch(step - 1)}
        self.cache.require_unchanged(sorted(blocks), self.examples.paths)

    def stream(self, start: int, stop: int, rank: int = 0, world_size: int = 1) -> BatchStream:
        """What one of `world_size` processes loads of iterations `start` ... `stop` - 1."""
        config = self.config
        return BatchStream(
            self.cache,
            self.sequence,
            self.examples,
            start,
            stop,
            config.image_size or self.cache.manifest.view_size,
            config.jitter,
            rank,
            world_size,
            looks=() if self.teacher is None else self.teacher.looks,
            fresh=config.augment if config.views == "fresh" else None,
            accumulate=config.accumulate,
            view_cache_bytes=view_cache_bytes(config),
        )
