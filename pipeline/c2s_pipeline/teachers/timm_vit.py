"""open_clip's ViTs of timm: a CLS token or the mean of the patches, then a linear head (MobileCLIP-B, EVA, ViTamin)."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import Tensor, nn

from c2s_cache import ConfigError
from c2s_pipeline.teachers.dense import TransformerTower
from c2s_pipeline.teachers.tower import one_side


class TimmViT(TransformerTower):
    """See `Tower`; registers are left out of the dense features.

    Raises:
        ConfigError: its head is no linear one.
    """

    family = "timm ViT"

    def __init__(self, visual: Any, name: str) -> None:
        super().__init__(visual, name)
        self._trunk = trunk = visual.trunk
        check_head(visual, name)
        self.blocks, self.prefix = trunk.blocks, int(trunk.num_prefix_tokens)
        self.rotated = getattr(trunk, "rope", None) is not None
        self.image_size = one_side(visual.image_size, name, "images")
        self.patch_size = int(trunk.feature_info[-1]["reduction"])
        self.listen()

    @property
    def dim(self) -> int:
        """See `Tower`."""
        return head_width(self.visual)

    @property
    def width(self) -> int:
        """See `TransformerTower`."""
        return int(self._trunk.embed_dim)

    def at(self, size: int) -> TimmViT:
        """See `Tower.at`; timm interpolates the positions."""
        return type(self)(sized(self.visual, size), self.name)

    def embed(self, pixels: Tensor) -> Tensor:
        """See `Tower.embed`."""
        found: Tensor = self.visual(pixels)
        return found

    def normed(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`; where the mean is normed, each token is."""
        normed: Tensor = self._trunk.fc_norm(self._trunk.norm(tokens))
        return normed

    def projected(self, tokens: Tensor) -> Tensor:
        """See `TransformerTower`."""
        found: Tensor = self.visual.head(self._trunk.head(tokens))
        return found


def check_head(visual: Any, name: str) -> None:
    """Refuse a head that is no linear map.

    Raises:
        ConfigError: it is none.
    """
    if any(hasattr(visual.head, part) for part in ("mlp", "pool")):
        raise ConfigError(
            f"teacher {name} has a head that is not linear, so its patches cannot be projected one by one.",
            "Choose another model: c2s teachers list",
        )


def head_width(visual: Any) -> int:
    """Width D of what an image tower of timm's gives."""
    layers = [m for m in visual.modules() if isinstance(m, nn.Linear)]
    if any(isinstance(m, nn.Linear) for m in visual.head.modules()):
        return int(layers[-1].out_features)
    return int(visual.trunk.num_classes or visual.trunk.num_features)


def sized(visual: Any, size: int) -> Any:
    """A copy of an image tower of timm's for images of another size."""
    copied = copy.deepcopy(visual)
    with warnings.catch_warnings(action="ignore"):  # of how torch likes what timm interpolates
        copied.set_input_size(size)
    return copied.eval().requires_grad_(False)
