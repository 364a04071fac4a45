"""ViT-B and SETR-B against transformers' ViT, the layouts of keys, and images of any size.

Two of the twelve layers and a 4 x 4 grid of positions suffice, and keep the tests quick.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from c2s.students import vit
from c2s.students.vit import SETR, ViT
from c2s_cache.errors import ConfigError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(vit, "DEPTH", 2)
    monkeypatch.setattr(vit, "GRID", 4)


def transformers_vit(image_size=64, **settings):
    torch.manual_seed(1)
    config = ViTConfig(
        num_hidden_layers=2, image_size=image_size, layer_norm_eps=1e-6, patch_size=16, **settings
    )
    model = ViTModel(config).eval()
    for name, parameter in model.named_parameters():
        gain = "layernorm" in name and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(gain), 0.05)  # attention far from uniform
    return model


@pytest.fixture(scope="module")
def reference():
    return transformers_vit()


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """The reference as the hub stores it."""
    path = tmp_path_factory.mktemp("hub")
    reference.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def test_logits_equal_those_of_transformers(reference, folder, images):
    bare, setr = ViT(24, folder).eval(), SETR(24, folder).eval()
    with torch.inference_mode():
        tokens = reference(images).last_hidden_state[:, 1:]
        maps = tokens.reshape(2, 4, 4, 768).permute(0, 3, 1, 2)
        logits = F.conv2d(maps, bare.head.weight, bare.head.bias)
        torch.testing.assert_close(bare(images), logits, rtol=1e-4, atol=1e-4)
        x = F.conv2d(maps, setr.head.conv.weight) / (1 + 1e-5) ** 0.5
        x = F.interpolate(x.relu(), (16, 16), mode="bilinear")
        logits = F.conv2d(x, setr.head.classifier.weight, setr.head.classifier.bias)
        torch.testing.assert_close(setr(images), logits, rtol=1e-4, atol=1e-4)


def mmsegmentation(timm_state):
    """Keys as tools/model_converters/vit2mmseg.py writes them."""
    state = {}
    for key, tensor in timm_state.items():
        for old, new in (
            ("blocks.", "layers."),
            (".norm1.", ".ln1."),
            (".norm2.", ".ln2."),
            ("attn.qkv.", "attn.attn.in_proj_"),
            ("attn.proj.", "attn.attn.out_proj."),
            ("mlp.fc1.", "ffn.layers.0.0."),
            ("mlp.fc2.", "ffn.layers.1."),
            ("patch_embed.proj.", "patch_embed.projection."),
        ):
            key = key.replace(old, new)
        state["ln1" + key[4:] if key.startswith("norm.") else key] = tensor
    return state


@pytest.mark.parametrize("layout", ["timm", "mmsegmentation", "run"])
def test_every_layout_gives_the_same_encoder(layout, folder, tmp_path):
    expected = ViT(24, folder)
    state = expected.backbone.state_dict()
    path = tmp_path / ("jx_vit.pth" if layout == "timm" else "model.safetensors")
    if layout == "timm":
        torch.save(state | {"head.weight": torch.zeros(1000, 768)}, path)
    elif layout == "mmsegmentation":
        save_file({f"backbone.{k}": v for k, v in mmsegmentation(state).items()}, path)
    else:
        save_file(expected.state_dict(), path)
    for name, value in SETR(24, str(path)).backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_position_embeddings_of_another_grid_are_resampled_as_images_are(tmp_path):
    source = transformers_vit(image_size=128)
    source.save_pretrained(tmp_path)
    theirs = source.embeddings.position_embeddings.detach()[0]
    ours = ViT(24, str(tmp_path)).backbone.pos_embed.detach()[0]
    assert torch.equal(ours[0], theirs[0])  # the class token's
    for channel in (0, 500):
        grid = Image.fromarray(theirs[1:, channel].reshape(8, 8).numpy())
        resized = torch.from_numpy(np.array(grid.resize((4, 4), Image.Resampling.BICUBIC)))
        torch.testing.assert_close(ours[1:, channel].reshape(4, 4), resized, rtol=1e-4, atol=1e-5)


def test_features_stay_in_place_when_a_side_is_no_multiple_of_the_patch():
    torch.manual_seed(0)
    student = ViT(8).eval()
    smooth = F.interpolate(torch.randn(2, 3, 4, 4), (80, 96), mode="bicubic")
    odd = F.interpolate(smooth, (69, 85), mode="bilinear")
    with torch.inference_mode():
        features, expected = student(odd), student(smooth)
    assert features.shape == expected.shape == (2, 8, 5, 6)
    assert F.cosine_similarity(features, expected, dim=1).min() > 0.99


def test_clip_is_refused_in_one_sentence(tmp_path):
    save_file({"visual.class_embedding": torch.zeros(768)}, tmp_path / "clip.safetensors")
    with pytest.raises(ConfigError, match=r"none of the layouts.*first key is 'visual\.class_emb"):
        ViT(24, str(tmp_path / "clip.safetensors"))


def test_inputs_are_normalised_as_the_checkpoints_expect():
    for kind in (ViT, SETR):
        assert kind.mean == kind.std == (0.5, 0.5, 0.5)
