"""Invariant: the teacher is frozen, in evaluation mode, and gives what open_clip's own model gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from c2s_cache import ConfigError, TeacherInfo
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.clip_model import (
    activation_of,
    create_model,
    resized,
    resolved,
    vision_transformer,
)
from c2s_pipeline.teachers.clip_names import known_name, known_weights
from c2s_pipeline.teachers.clip_text import OpenClipText, load_text, text_digest
from c2s_pipeline.teachers.dense import check_variant, cls_and_dense, dense_dim
from c2s_pipeline.teachers.digest import teacher_digest, weights_digest

LARGEST = 24 << 20
"""Bytes of the largest activation on a CPU. glibc maps blocks beyond 32 MiB anew each time, and the system
fills them with zeros: a ViT-B/16 then takes an eighth longer for an image."""


class OpenClipViT:
    """A ViT of open_clip that projects its CLS token, or the mean of its tokens. On a GPU threads take turns, so
    that it holds one batch at a time.

    Args:
        spec: what to load.
        device: torch device.
        pool: threads among which a CPU shares out a batch, each computing alone; None: it is computed part
            by part, here.

    Raises:
        ConfigError: unknown model or weights, not a ViT with a CLS token, or one that cannot give
            the dense features.
        MissingExtra: open_clip is not installed.
    """

    def __init__(self, spec: TeacherSpec, device: torch.device, pool: Executor | None) -> None:
        self.device, self._pool = device, pool
        gpu = self.device.type == "cuda"
        self._turn: AbstractContextManager[Any] = threading.Lock() if gpu else nullcontext()
        spec = resolved(spec)
        model, self.notice = create_model(spec)
        self._model: Any = model.to(self.device)
        self._visual = vision_transformer(self._model, spec.name)
        self.image_size = int(self._visual.image_size[0])
        self.patch_size = int(self._visual.patch_size[0])
        self.dense_size = spec.dense_size or self.image_size
        if self.dense_size % self.patch_size:
            raise ConfigError(
                f"the dense input size {self.dense_size} is no multiple of the patch size "
                f"{self.patch_size} of {spec.name}."
            )
        check_variant(self._visual, spec.dense_features, spec.name)
        self._dense_visual = self._visual
        if self.dense_size != self.image_size:
            self._dense_visual = resized(self._visual, self.dense_size)
        self.activation = activation_of(self._model)
        self.spec = replace(spec, dense_size=self.dense_size, activation=self.activation)
        config = self._visual.preprocess_cfg
        self.mean, self.std = _channels(config["mean"]), _channels(config["std"])
        self._mean = torch.tensor(self.mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(self.std, device=self.device).view(3, 1, 1)

    @classmethod
    def load_text(cls, spec: TeacherSpec, device: torch.device) -> OpenClipText:
        """The text tower without the image tower; see `c2s_pipeline.teachers.registry.load_text_encoder`."""
        return load_text(resolved(spec), device)

    @cached_property
    def text(self) -> OpenClipText:
        """The text tower, which shares the model."""
        return OpenClipText(self._model, self.spec.name, self.device)

    @property
    def dim(self) -> int:
        """Width D of the joint image-text space."""
        return int(self._visual.proj.shape[1])

    @property
    def dense_dim(self) -> int:
        """Channels of the dense features."""
        return dense_dim(self._visual, self.spec.dense_features)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the dense token grid."""
        side = self.dense_size // self.patch_size
        return side, side

    def info(self) -> TeacherInfo:
        """Facts for the manifest, among them the digests of all weights."""
        tower = weights_digest(self._visual.state_dict(), activation_of(self._visual))
        text = text_digest(self._model)
        return TeacherInfo(
            name=known_name(self.spec.name),
            pretrained=known_weights(self.spec.pretrained),
            digest=teacher_digest(tower, text),
            tower_digest=tower,
            text_digest=text,
            activation=self.activation,
            dim=self.dim,
            image_size=self.image_size,
            dense_size=self.dense_size,
            dense_features=self.spec.dense_features,
            dense_dim=self.dense_dim,
            grid=self.grid,
            mean=self.mean,
            std=self.std,
        )

    def prepare(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 RGB [B, T, T, 3] to the model's normalised float32 [B, 3, T, T] on its device."""
        batch = torch.from_numpy(np.array(images)).to(self.device)
        pixels = rearrange(batch, "b h w c -> b c h w").float().div_(255.0)
        return pixels.sub_(self._mean).div_(self._std)

    def embed_images(self, images: NDArray[np.uint8], batch: int | None = None) -> Tensor:
        """CLS embedding of each image, not normalised: what `encode_image` returns.

        A tower that pools by averaging its tokens has no CLS token; the mean takes its place.

        Args:
            images: uint8 [B, T, T, 3] with T = `image_size`.
            batch: the most images of one pass; None: all.

        Returns:
            float32 [B, D].
        """
        visual, most = self._visual, batch or len(images)
        passes = self._passes(visual, images, most, lambda pixels: (visual(pixels),))
        return torch.cat([cls for (cls,) in passes]).float()

    def dense(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """CLS and dense features; by default C_d, the projected patch tokens (Sec. III-B).

        Args:
            images: uint8 [B, T, T, 3] with T = `dense_size`.

        Returns:
            CLS float32 [B, D] and dense features float32 [B, h, w, `dense_dim`], neither normalised.
        """
        visual, variant, grid = self._dense_visual, self.spec.dense_features, self.grid
        passes = self._passes(
            visual, images, len(images), lambda pixels: cls_and_dense(visual, pixels, variant, grid)
        )
        cls, dense = (torch.cat(values) for values in zip(*passes, strict=True))
        return cls.float(), rearrange(dense.float(), "b (h w) c -> b h w c", h=grid[0], w=grid[1])

    def _passes(
        self,
        visual: Any,
        images: NDArray[np.uint8],
        most: int,
        forward: Callable[[Tensor], tuple[Tensor, ...]],
    ) -> list[tuple[Tensor, ...]]:
        """What `forward` makes of the images in passes of `most`, on a CPU of so few that no activation is
        larger than `LARGEST` bytes. The cut depends on nothing else, for the bits depend on it."""
        if self.device.type != "cuda":
            hidden = visual.transformer.resblocks[0].mlp.c_fc.out_features
            tokens = visual.positional_embedding.shape[0]
            most = min(most, max(LARGEST // (4 * hidden * tokens), 1))

        @torch.inference_mode()
        def look(part: NDArray[np.uint8]) -> tuple[Tensor, ...]:
            with self._turn, self._arithmetic():
                return forward(self.prepare(part))

        parts = np.array_split(images, max(-(-len(images) // max(most, 1)), 1))
        each = map if self._pool is None or len(parts) == 1 else self._pool.map
        return list(each(look, parts))

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """The precision that was asked for. On a GPU torch would have the convolution that cuts patches
        compute in TensorFloat-32, with 10 bits of mantissa, and by whichever algorithm is the fastest."""
        if self.spec.precision != "float32":
            return torch.autocast(self.device.type, dtype=getattr(torch, self.spec.precision))
        if self.device.type == "cuda":
            return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        return nullcontext()


def _channels(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
