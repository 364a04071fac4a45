"""SETR-B and ViT-B: timm's ViT-B/16 with the heads whose sums are those of the paper's Table III.

The encoder is one and the same (Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021):
twelve layers of width 768, a class token, learned position embeddings of a 32 x 32 grid that are
interpolated to the image's, and a final norm.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from c2s.students.base import FeatureStudent, initialise_convolutions, to_multiple
from c2s.students.weights import Layout, State, load_encoder, own_layout

PATCH = 16
GRID = 32
"""Side of the position embeddings' grid: that of the 512-pixel training views."""
WIDTH, DEPTH, HEADS = 768, 12, 12
SETR_CHANNELS = 256


class ViT(FeatureStudent):
    """ViT-B/16 whose tokens a linear layer takes to D; features at 1/16 of the input.

    Stochastic depth of 0.1 and the trainer's defaults are mmsegmentation's schedule for ViT-B (AdamW
    6e-5, weight decay 0.01, warm-up 1500, poly of power 1), but that its head learns at the
    backbone's rate (`head_lr_mult=1`).

    Args:
        dim: D.
        weights: encoder weights in a layout of `LAYOUTS` (`jx_vit_base_p16_224-80ecf9dd.pth`, the hub's
            google/vit-base-patch16-224-in21k, ...; see `c2s.students.weights.read_checkpoint` for what
            may hold them); position embeddings of another square grid are resampled. None: random.
            CLIP's image encoder is another architecture and does not fit.

    Raises:
        ConfigError: the weights cannot be read or do not fit the encoder.
    """

    backbone: VisionTransformer
    classifier = "head"
    drop_path = 0.1
    # Of the images that timm's jx_vit_* and Google's ViT were trained on.
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, dim: int, weights: str | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.backbone = VisionTransformer(
            img_size=GRID * PATCH,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            drop_path_rate=self.drop_path,
        )
        self.head = self._head(dim)
        if weights is not None:
            load_encoder(self.backbone, weights, LAYOUTS, resample_positions)

    def _head(self, dim: int) -> nn.Module:
        head = nn.Conv2d(WIDTH, dim, 1)
        initialise_convolutions(head, head)
        return head

    def forward(self, images: Tensor) -> Tensor:
        """Features float [B, D, h, w] of normalised images [B, 3, H, W]."""
        images = to_multiple(images, PATCH)
        tokens = self.backbone.forward_features(images)[:, 1:]  # without the class token
        maps = rearrange(tokens, "b (h w) c -> b c h w", h=images.shape[-2] // PATCH)
        features: Tensor = self.head(maps)
        return features


class SETR(ViT):
    """SETR on ViT-B/16: one 1 x 1 convolution to 256 channels, x 4, classifier; features at 1/4.

    Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with
    Transformers" (CVPR 2021), as mmsegmentation's SETRUPHead with num_convs=1, kernel_size=1 and
    up_scale=4. The head's norm of the tokens is the encoder's last one. Auxiliary heads, which only
    training has, are left out. SETR's own schedule (SGD 0.01, momentum 0.9, no weight decay, poly of
    power 0.9) is not used: the paper trains with AdamW, so the trainer's defaults stand.

    Args and errors as for `ViT`.
    """

    classifier = "head.classifier"
    drop_path = 0.0

    def _head(self, dim: int) -> nn.Module:
        return SETRHead(dim)


class SETRHead(nn.Module):
    """[B, 768, h, w] -> [B, D, 4 h, 4 w]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, SETR_CHANNELS, 1, bias=False)
        self.norm = nn.BatchNorm2d(SETR_CHANNELS)
        self.classifier = nn.Conv2d(SETR_CHANNELS, dim, 1)
        initialise_convolutions(self, self.classifier)

    def forward(self, maps: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(maps)))
        x = F.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False)
        features: Tensor = self.classifier(x)
        return features


def resample_positions(state: State) -> State:
    """Position embeddings [1, 1 + g * g, C] of another grid brought to 1 + 32 * 32, bicubically."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or positions.shape[1] == 1 + GRID**2:
        return state
    side = round((positions.shape[1] - 1) ** 0.5)
    if side**2 != positions.shape[1] - 1:
        return state
    return state | {"pos_embed": resample_abs_pos_embed(positions.float(), [GRID, GRID])}


LAYER = r"(\d+)\."
LAYOUTS = (
    # timm, in jx_vit_base_p16_*.pth and on the hub; also what run folders store.
    own_layout("blocks", "patch_embed", "norm", "cls_token", "pos_embed"),
    # open-mmlab/mmsegmentation, tools/model_converters/vit2mmseg.py; mmpretrain's files, which SETR
    # starts from, only differ in the names of the attention's two layers.
    Layout(
        "mmsegmentation ViT",
        (
            (r"(cls_token|pos_embed)", r"\1"),
            (r"patch_embed\.projection\.(.+)", r"patch_embed.proj.\1"),
            (rf"layers\.{LAYER}ln([12]\..+)", r"blocks.\1.norm\2"),
            (rf"layers\.{LAYER}attn\.(?:attn\.in_proj_|qkv\.)(.+)", r"blocks.\1.attn.qkv.\2"),
            (rf"layers\.{LAYER}attn\.(?:attn\.out_proj|proj)\.(.+)", r"blocks.\1.attn.proj.\2"),
            (rf"layers\.{LAYER}ffn\.layers\.0\.0\.(.+)", r"blocks.\1.mlp.fc1.\2"),
            (rf"layers\.{LAYER}ffn\.layers\.1\.(.+)", r"blocks.\1.mlp.fc2.\2"),
            (r"ln1\.(.+)", r"norm.\1"),
        ),
    ),
    # Hugging Face transformers, models/vit, as its hub stores it.
    Layout(
        "Hugging Face ViT",
        (
            (r"embeddings\.cls_token", "cls_token"),
            (r"embeddings\.position_embeddings", "pos_embed"),
            (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
            (rf"encoder\.layer\.{LAYER}layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
            (rf"encoder\.layer\.{LAYER}layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
            *(
                (
                    rf"encoder\.layer\.{LAYER}attention\.attention\.{part}\.(.+)",
                    rf"blocks.\1.attn.qkv.\2@{order}",
                )
                for order, part in enumerate(("query", "key", "value"))
            ),
            (
                rf"encoder\.layer\.{LAYER}attention\.output\.dense\.(.+)",
                r"blocks.\1.attn.proj.\2",
            ),
            (rf"encoder\.layer\.{LAYER}intermediate\.dense\.(.+)", r"blocks.\1.mlp.fc1.\2"),
            (rf"encoder\.layer\.{LAYER}output\.dense\.(.+)", r"blocks.\1.mlp.fc2.\2"),
            (r"layernorm\.(.+)", r"norm.\1"),
        ),
    ),
)
