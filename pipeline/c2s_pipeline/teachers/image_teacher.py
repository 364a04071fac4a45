"""Invariant: a teacher is frozen, in evaluation mode, and gives what the model of its library gives."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from c2s_cache import ConfigError, TeacherInfo
from c2s_cache.manifest import Interpolation, ResizeMode
from c2s_pipeline.teachers.base import TeacherSpec, TextEncoder
from c2s_pipeline.teachers.clip_names import known_name, known_weights
from c2s_pipeline.teachers.digest import teacher_digest
from c2s_pipeline.teachers.tower import Tower

LARGEST = 24 << 20
"""Bytes of the largest activation on a CPU. glibc maps blocks beyond 32 MiB anew each time, and the system
fills them with zeros: a ViT-B/16 then takes an eighth longer for an image."""

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """How a model was trained to see images: see the attributes of that name of `TeacherInfo`."""

    mean: RGB
    std: RGB
    resize_mode: ResizeMode
    interpolation: Interpolation

    @classmethod
    def named(
        cls, name: str, mean: Any, std: Any, resize_mode: Any, interpolation: Any
    ) -> Preprocessing:
        """The same of values as a model's configuration has them; `name` is the teacher's, for messages.

        Raises:
            ConfigError: a way that c2s does not have.
        """
        known = resize_mode in ("shortest", "squash") and interpolation in ("bicubic", "bilinear")
        if not known:
            raise ConfigError(
                f"teacher {name} sees images by the resize mode {resize_mode!r} and the interpolation "
                f"{interpolation!r}; c2s has shortest and squash, bicubic and bilinear."
            )
        red, green, blue = (float(v) for v in mean)
        std_red, std_green, std_blue = (float(v) for v in std)
        return cls((red, green, blue), (std_red, std_green, std_blue), resize_mode, interpolation)


class ImageTeacher(ABC):
    """A teacher with an image tower of some family. On a GPU threads take turns, so that it holds one batch at a time.

    Args:
        spec: what was loaded.
        tower: its image tower, on the device.
        preprocessing: how it sees images.
        device: torch device.
        pool: threads among which a CPU shares out a batch, each computing alone; None: it is computed part
            by part, here.

    Raises:
        ConfigError: the tower cannot give the dense features, or not at that size.
    """

    notice: str | None = None

    def __init__(
        self,
        spec: TeacherSpec,
        tower: Tower,
        preprocessing: Preprocessing,
        device: torch.device,
        pool: Executor | None,
    ) -> None:
        self.device, self._pool, self.tower = device, pool, tower
        gpu = self.device.type == "cuda"
        self._turn: AbstractContextManager[Any] = threading.Lock() if gpu else nullcontext()
        self.image_size, self.patch_size = tower.image_size, tower.patch_size
        whole = self.image_size - self.image_size % self.patch_size
        self.dense_size = spec.dense_size or whole
        if self.dense_size % self.patch_size:
            raise ConfigError(
                f"the dense input size {self.dense_size} is no multiple of the patch size "
                f"{self.patch_size} of {spec.name}."
            )
        if spec.dense_features not in tower.variants:
            raise ConfigError(
                f"teacher {spec.name} cannot give the dense features {spec.dense_features!r}; it gives "
                f"{', '.join(tower.variants)}.",
                "Choose one of them with --dense-features.",
            )
        same = self.dense_size == self.image_size
        self.dense_tower = tower if same else tower.at(self.dense_size)
        self.spec = replace(spec, dense_size=self.dense_size)
        self.preprocessing = preprocessing
        self._mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(self.std, device=device).view(3, 1, 1)

    @property
    @abstractmethod
    def text(self) -> TextEncoder:
        """The text tower, which shares the model."""

    @abstractmethod
    def digests(self) -> tuple[str, str]:
        """Those of the image tower and of the text tower."""

    @abstractmethod
    def logits(self) -> tuple[float | None, float | None]:
        """Scale and bias of the logits that it was trained with; None: it has none."""

    @property
    def mean(self) -> RGB:
        """See `Teacher`."""
        return self.preprocessing.mean

    @property
    def std(self) -> RGB:
        """See `Teacher`."""
        return self.preprocessing.std

    @property
    def dim(self) -> int:
        """Width D of the joint image-text space."""
        return self.tower.dim

    @property
    def dense_dim(self) -> int:
        """Channels of the dense features."""
        return self.tower.dense_dim(self.spec.dense_features)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the dense token grid."""
        side = self.dense_size // self.patch_size
        return side, side

    def info(self) -> TeacherInfo:
        """Facts for the manifest, among them the digests of all weights."""
        tower, text = self.digests()
        scale, bias = self.logits()
        return TeacherInfo(
            name=known_name(self.spec.name),
            pretrained=known_weights(self.spec.pretrained),
            digest=teacher_digest(tower, text),
            tower_digest=tower,
            text_digest=text,
            activation=self.spec.activation,
            dim=self.dim,
            image_size=self.image_size,
            dense_size=self.dense_size,
            dense_features=self.spec.dense_features,
            dense_dim=self.dense_dim,
            grid=self.grid,
            mean=self.mean,
            std=self.std,
            resize_mode=self.preprocessing.resize_mode,
            interpolation=self.preprocessing.interpolation,
            logit_scale=scale,
            logit_bias=bias,
        )

    def prepare(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 RGB [B, T, T, 3] to the model's normalised float32 [B, 3, T, T] on its device."""
        batch = torch.from_numpy(np.array(images)).to(self.device)
        pixels = rearrange(batch, "b h w c -> b c h w").float().div_(255.0)
        return pixels.sub_(self._mean).div_(self._std)

    def embed_images(self, images: NDArray[np.uint8], batch: int | None = None) -> Tensor:
        """Embedding of each image, not normalised: what its library's model says.

        Args:
            images: uint8 [B, T, T, 3] with T = `image_size`.
            batch: the most images of one pass; None: all.

        Returns:
            float32 [B, D].
        """
        tower, most = self.tower, batch or len(images)
        passes = self._passes(tower, images, most, lambda pixels: (tower.embed(pixels),))
        return torch.cat([cls for (cls,) in passes]).float()

    def dense(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Embedding and dense features; by default C_d, the projected patch tokens (Sec. III-B).

        Args:
            images: uint8 [B, S, S, 3] with S = `dense_size`.

        Returns:
            float32 [B, D] and float32 [B, h, w, `dense_dim`], neither normalised.
        """
        tower, variant, grid = self.dense_tower, self.spec.dense_features, self.grid
        passes = self._passes(
            tower, images, len(images), lambda pixels: tower.cls_and_dense(pixels, variant)
        )
        cls, dense = (torch.cat(values) for values in zip(*passes, strict=True))
        return cls.float(), rearrange(dense.float(), "b (h w) c -> b h w c", h=grid[0], w=grid[1])

    def _passes(
        self,
        tower: Tower,
        images: NDArray[np.uint8],
        most: int,
        forward: Callable[[Tensor], tuple[Tensor, ...]],
    ) -> list[tuple[Tensor, ...]]:
        """What `forward` makes of the images in passes of `most`, on a CPU of so few that no activation is
        larger than `LARGEST` bytes. The cut depends on nothing else, for the bits depend on it."""
        if self.device.type != "cuda":
            most = min(most, max(LARGEST // (4 * tower.widest), 1))

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
