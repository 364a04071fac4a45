"""open_clip's convolutional and windowed towers of timm, which average a map: MobileCLIP-S, ConvNeXt, Swin."""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor

from c2s_pipeline.teachers.timm_vit import check_head, head_width, sized
from c2s_pipeline.teachers.tower import DenseFeatures, Tower, one_side


class TimmConvolution(Tower):
    """See `Tower`; each position of the last map goes through norm and head as if it were the whole map.

    Raises:
        ConfigError: its head is no linear one.
    """

    family = "timm convolution"

    def __init__(self, visual: Any, name: str) -> None:
        super().__init__(visual, name)
        check_head(visual, name)
        self._trunk = visual.trunk
        self.image_size = one_side(visual.image_size, name, "images")
        self.patch_size = int(self._trunk.feature_info[-1]["reduction"])
        self._last_axis = getattr(self._trunk, "output_fmt", "NCHW") == "NHWC"

    @property
    def dim(self) -> int:
        """See `Tower`."""
        return head_width(self.visual)

    @property
    def variants(self) -> tuple[DenseFeatures, ...]:
        """See `Tower`."""
        return ("plain",)

    @property
    def widest(self) -> int:
        """See `Tower.widest`: the hidden layer of the first stage, four times as wide."""
        first = self._trunk.feature_info[0]
        return int(4 * first["num_chs"] * (self.image_size // first["reduction"]) ** 2)

    def at(self, size: int) -> TimmConvolution:
        """See `Tower.at`; convolutions take any, windows are laid anew."""
        if hasattr(self._trunk, "set_input_size"):
            return TimmConvolution(sized(self.visual, size), self.name)
        other = TimmConvolution(self.visual, self.name)
        other.image_size = size
        return other

    def embed(self, pixels: Tensor) -> Tensor:
        """See `Tower.embed`."""
        found: Tensor = self.visual(pixels)
        return found

    def cls_and_dense(self, pixels: Tensor, features: DenseFeatures) -> tuple[Tensor, Tensor]:
        """See `Tower.cls_and_dense`; the embedding comes from the same pass."""
        maps = self._trunk.forward_features(pixels)
        split = "b h w c -> (b h w) 1 1 c" if self._last_axis else "b c h w -> (b h w) c 1 1"
        cells = self._head(rearrange(maps, split))
        return self._head(maps), rearrange(cells, "(b n) d -> b n d", b=len(maps))

    def _head(self, maps: Tensor) -> Tensor:
        found: Tensor = self.visual.head(self._trunk.forward_head(maps))
        return found
