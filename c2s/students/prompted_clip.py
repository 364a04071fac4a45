"""Student `prompted-clip`: CLIP's frozen image tower with trained prompts and a decoder that asks for regions.

"Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation" (CVPR 2024, CLIP-RC). Notation of the paper: G
the class token's feature, P the K prompts, I the N = h w patches, R the region-level bridge of M tokens, T the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from pydantic import ValidationError
from torch import Tensor, nn

from c2s.students.base import IMAGENET_MEAN, IMAGENET_STD, Student, to_multiple
from c2s.students.clip_tower import CLIPTower
from c2s.students.prompting import PromptedArchitecture, vit_b
from c2s.students.two_stream import TwoStreamDecoder, initialise
from c2s_cache.errors import ConfigError


class Encoded(NamedTuple):
    """Features of the encoder, each of unit norm: `cls` G [B, D], `patches` I [B, N, D], `bridge` R [B, M, D]."""

    cls: Tensor
    patches: Tensor
    bridge: Tensor


class Prompted(NamedTuple):
    """What a training step needs of a forward pass with C classes.

    Attributes:
        logits: [B, C, h, w].
        queries: [B, M C, D], decoded, all classes of a region after another.
        patches: [B, N, D], decoded.
        descriptors: [B, M C, 2 D], what the queries were made of (with descriptor "global" M is 1 here).
        encoded: I, [B, N, D], unit norm, before alignment and decoder.
    """

    logits: Tensor
    queries: Tensor
    patches: Tensor
    descriptors: Tensor
    encoded: Tensor


class PromptedCLIP(Student):
    """CLIP-RC's model at inference.

    Args:
        dim: D.
        architecture: values of `PromptedArchitecture`; default: ViT-B/16 and the paper's sizes for VOC.

    Attributes:
        shape: the same, checked.

    Raises:
        ConfigError: sizes do not fit each other.
    """

    backbone: CLIPTower
    frozen = ("backbone.",)

    def __init__(self, dim: int, architecture: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.shape = shape = _checked(architecture or {"tower": vit_b(dim)})
        tower = shape.tower
        if tower.dim != dim:
            raise ConfigError(f"The tower projects to {tower.dim} channels, not to {dim}.")
        self.dim, self.architecture = dim, shape.model_dump(mode="json")
        if shape.normalisation == "clip":
            self.mean, self.std = tower.mean, tower.std
        else:
            self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self.backbone = CLIPTower(tower)
        width = tower.width
        if shape.prompts:
            self.prompts = nn.Parameter(torch.empty(tower.layers, shape.prompts, width))
            bound = math.sqrt(6 / (3 * tower.patch**2 + width))
            nn.init.uniform_(self.prompts, -bound, bound)
            self.prompt_project = nn.Linear(width, width)
            nn.init.kaiming_normal_(self.prompt_project.weight, mode="fan_out")
            nn.init.zeros_(self.prompt_project.bias)
            self.prompt_dropout = nn.Dropout(shape.dropout)
            self.prompt_norm = nn.LayerNorm(width, eps=1e-6)
        if shape.bridge_update and self._tokens:
            self.bridge_tokens = nn.Parameter(self._first_bridge().clone())
        if shape.fuse:
            self.fuse = nn.Linear((1 + len(shape.fuse)) * dim, dim)
            initialise(self.fuse)
        self.query = nn.Linear(2 * dim, dim)
        initialise(self.query)
        sizes = (shape.heads, shape.ffn, shape.decoder_layers)
        self.decoder = TwoStreamDecoder(dim, *sizes, shape.dropout)
        if shape.first_scores is not None:
            self.decoder.start_at(shape.first_scores)
        if shape.start == "tower":
            self._pass_on()

    def load_tower(self, tensors: Mapping[str, Any]) -> None:
        """Take the tower's weights, by open_clip's names; a trained bridge begins from them."""
        self.backbone.load(tensors)
        if hasattr(self, "bridge_tokens"):
            with torch.no_grad():
                self.bridge_tokens.copy_(self._first_bridge())

    def _pass_on(self) -> None:
        """Let text and patches pass the layers before the decoder, beside what is drawn of these.

        The two then begin where the tower has brought them, in one space; as drawn, the bilinear form between them is
        learnt of the seen classes alone.
        """
        with torch.no_grad():
            self.query.weight[:, self.dim :].diagonal().add_(1)  # of [T * R, T]
            if self.shape.fuse:
                self.fuse.weight[:, -self.dim :].diagonal().add_(1)  # of [R, G, I]

    @property
    def _tokens(self) -> int:
        """Tokens of the bridge in the tower. One that pools by averaging has no token to copy."""
        return self.shape.bridge if self.shape.tower.pool == "tok" else 0

    def _first_bridge(self) -> Tensor:
        """R before the first layer: the class token with its position, M times: [1, M, W]."""
        return self.backbone.class_token.expand(-1, self._tokens, -1)

    def encode(self, images: Tensor) -> Encoded:
        """Run the tower with prompts and bridge over images [B, 3, H, W] whose sides are multiples of its patches.

        Of a tower that pools by averaging, G is the mean of all patches and R_m the mean of those of cell m: the
        tower's own pooling, of a region; it has no further tokens and no mask.
        """
        shape, vit = self.shape, self.backbone.vit
        count, bridge, batch = shape.prompts, self._tokens, images.shape[0]
        token, patches, size = self.backbone.embedded(images)
        parts = [token.expand(batch, -1, -1), patches]
        if bridge:
            first = getattr(self, "bridge_tokens", None)
            first = self._first_bridge() if first is None else first
            parts.append(first.expand(batch, -1, -1))
        tokens = vit.norm_pre(torch.cat(parts, 1))  # [G, I, R]
        mask = attention_mask(count, size, bridge, tokens.device) if bridge else None
        prompts = self.prompt_project(self.prompts) if count else None
        for i, block in enumerate(vit.blocks):
            if prompts is not None:  # [G, P, I, R]; those of the layer before give way
                own = self.prompt_dropout(prompts[i].expand(batch, -1, -1))
                rest = tokens[:, 1 + count :] if i else tokens[:, 1:]
                tokens = torch.cat([tokens[:, :1], own, rest], 1)
            tokens = block(tokens, attn_mask=mask)
        tokens = torch.cat([tokens[:, :1], tokens[:, 1 + count :]], 1)
        if prompts is not None:
            end = tokens.shape[1] - bridge
            tokens = torch.cat([self.prompt_norm(tokens[:, :end]), tokens[:, end:]], 1)
        tokens = self.backbone.projected(tokens)
        split = [1, size[0] * size[1], bridge]
        cls, patches, regions = torch.split(tokens, split, 1)
        if shape.tower.pool == "avg":
            cls = patches.mean(1, keepdim=True)
            regions = _pooled(patches, size, math.isqrt(shape.bridge))
        return Encoded(
            F.normalize(cls[:, 0], dim=-1),
            F.normalize(patches, dim=-1),
            F.normalize(regions, dim=-1),
        )

    def aligned(
        self, found: Encoded, text: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Region alignment (Eq. 4-6): queries [B, M C, D], patches [B, N, D], and the descriptors [B, M C, 2 D].

        Args:
            found: the encoder's features.
            text: T, [C, D], unit norm.
            size: patches (h, w) of a column and a row.
        """
        shape, patches = self.shape, found.patches
        cls = found.cls[:, None]  # [B, 1, D]
        if shape.fuse:
            beside = {"cls": cls.expand_as(patches)}
            if "bridge" in shape.fuse:
                beside["bridge"] = _resize_cells(found.bridge, size)
            patches = self.fuse(torch.cat([*(beside[k] for k in shape.fuse), patches], -1))
        if shape.descriptor == "global":
            regions = cls
        else:
            regions = found.bridge + cls if shape.descriptor == "regional" else found.bridge
        products = regions[:, :, None] * text  # [B, M, C, D]
        descriptors = torch.cat([products, text.expand_as(products)], -1).flatten(1, 2)
        return self.query(descriptors), patches, descriptors

    def forward(self, images: Tensor, text: Tensor) -> Prompted:
        """Mask logits of classes given by their text, and what recovery compares.

        Args:
            images: float [B, 3, H, W], normalised.
            text: float [C, D], unit norm, C at least 1.
        """
        images = to_multiple(images, self.backbone.patch)
        size = (images.shape[2] // self.backbone.patch, images.shape[3] // self.backbone.patch)
        found = self.encode(images)
        queries, patches, descriptors = self.aligned(found, text, size)
        queries, patches = self.decoder(queries, patches)
        # Eq. 8 as printed. The mean of the queries first would give the same for 1 % less work at M = 256.
        each = queries @ patches.mT  # [B, M C, N]
        logits = reduce(each, "b (m c) (h w) -> b c h w", "mean", c=len(text), h=size[0])
        return Prompted(logits, queries, patches, descriptors, found.patches)

    def classify(self, images: Tensor, text: Tensor) -> Tensor:
        """Sigmoids of the mask logits; see `Student.classify`. A class's depend on which others are asked for."""
        if not len(text):
            patch = self.backbone.patch
            height, width = (-(-side // patch) for side in images.shape[2:])
            return images.new_zeros(len(images), 0, height, width, dtype=torch.float32)
        scores: Tensor = self(images, text).logits.float().sigmoid()
        return scores


def attention_mask(
    prompts: int, size: tuple[int, int], bridge: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Which of the tokens [G, P, I, R] look at which (rows at columns): bool [E, E], E = 1 + K + N + M.

    R_m and the patches of cell m look at each other, and R_m at itself; apart from that nobody looks at a token of R,
    and R at nobody. All images and layers share it.

    Args:
        prompts: K.
        size: patches (h, w) of a column and a row.
        bridge: M, a square number; cell m is one of sqrt(M) x sqrt(M) equal parts of the patches, row by row.
        device: of the mask.
    """
    own = 1 + prompts + size[0] * size[1]
    cells = patch_cells(size, math.isqrt(bridge), device)
    numbers = torch.arange(bridge, device=device)
    mask = torch.ones(own + bridge, own + bridge, dtype=torch.bool, device=device)
    mask[own:, : 1 + prompts] = mask[: 1 + prompts, own:] = False
    mask[own:, 1 + prompts : own] = numbers[:, None] == cells
    mask[1 + prompts : own, own:] = cells[:, None] == numbers
    mask[own:, own:] = numbers[:, None] == numbers
    return mask


def patch_cells(size: tuple[int, int], side: int, device: torch.device | str = "cpu") -> Tensor:
    """The cell of side x side, row by row, in which each patch's upper left corner lies: int64 [h w]."""
    rows, columns = (torch.arange(length, device=device) * side // length for length in size)
    return (rows[:, None] * side + columns).flatten()


def _resize_cells(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """One vector for each cell [B, M, D] brought to each patch bilinearly: [B, h w, D]."""
    side = math.isqrt(regions.shape[1])
    maps = rearrange(regions, "b (r c) d -> b d r c", r=side)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False).flatten(2).mT


def _pooled(patches: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Means of patches [B, h w, D] over side x side cells: [B, side^2, D]."""
    if not side:
        return patches[:, :0]
    maps = rearrange(patches, "b (h w) d -> b d h w", h=size[0])
    return F.adaptive_avg_pool2d(maps, side).flatten(2).mT


def _checked(architecture: Mapping[str, Any]) -> PromptedArchitecture:
    try:
        return PromptedArchitecture.model_validate(architecture)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        said = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"prompted-clip: {where + ': ' if where else ''}{said}.") from error
