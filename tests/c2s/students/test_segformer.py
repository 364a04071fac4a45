"""SegFormer: MiT against timm's PVTv2 (the same network under other names), head, layouts of keys."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import nn

from c2s.students.segformer import SegFormer
from c2s_cache.errors import ConfigError


@pytest.fixture(scope="module")
def reference():
    """MiT-B0 as timm's pyramid vision transformer, random."""
    torch.manual_seed(1)
    model = PyramidVisionTransformerV2(
        embed_dims=(32, 64, 160, 256),
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 5, 8),
        sr_ratios=(8, 4, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_classes=5,
    )
    for name, parameter in model.named_parameters():
        gain = "norm" in name and name.endswith("weight")
        nn.init.normal_(parameter, float(gain), 0.1)  # attention far from uniform
    return model.eval()


@pytest.fixture(scope="module")
def original(reference):
    """Its parameters under the names of mit_b0.pth, classifier included."""
    state = {}
    for key, tensor in reference.state_dict().items():
        parts = key.split(".")
        if parts[0] == "stages":
            stage, rest = int(parts[1]) + 1, ".".join(parts[2:])
            if rest.startswith("downsample."):
                key = rest.replace("downsample", f"patch_embed{stage}")
            elif rest.startswith("blocks."):
                key = rest.replace("blocks", f"block{stage}", 1)
                key = key.replace("mlp.dwconv.", "mlp.dwconv.dwconv.")
            else:
                key = f"norm{stage}.{parts[-1]}"
        elif parts[0] == "patch_embed":
            key = "patch_embed1." + ".".join(parts[1:])
        state[key] = tensor
    return state


@pytest.fixture(scope="module")
def student(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mit_b0.pth"
    torch.save(original, path)
    torch.manual_seed(0)
    student = SegFormer("b0", 24, str(path)).eval()
    for module in student.head.modules():  # statistics that differ from those of no norm
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 1.0, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return student


@pytest.fixture(scope="module")
def hub(student, tmp_path_factory):
    """Folder with the encoder as the hub stores it."""
    path = tmp_path_factory.mktemp("hub")
    student.backbone.save_pretrained(path)
    return path


def reference_head(state, maps):
    """Logits of the stages' maps in float64: conv-BN-ReLU per level, joined, conv-BN-ReLU, classifier."""
    state = {k: v.double() for k, v in state.items()}

    def conv_norm(name, x):
        x = torch.einsum("oi,bihw->bohw", state[f"{name}.0.weight"][:, :, 0, 0], x)
        mean, var, weight, bias = (
            state[f"{name}.1.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).relu()

    size = maps[0].shape[-2:]
    levels = [conv_norm(f"levels.{i}", m.double()) for i, m in enumerate(maps)]
    x = torch.cat([F.interpolate(m, size, mode="bilinear") for m in levels], dim=1)
    x = torch.einsum("oi,bihw->bohw", state["classifier.weight"][:, :, 0, 0], conv_norm("fuse", x))
    return (x + state["classifier.bias"][:, None, None]).float()


def test_logits_equal_those_of_timm_and_plain_functions(reference, student):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        maps, x = [], reference.patch_embed(images)
        for stage in reference.stages:
            x = stage(x)
            maps.append(x)
        ours = student.backbone(images, output_hidden_states=True).hidden_states
        for a, b in zip(ours, maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        features = student(images)
    assert features.shape == (2, 24, 16, 24)
    logits = reference_head(student.head.state_dict(), maps)
    torch.testing.assert_close(features, logits, rtol=1e-4, atol=1e-4)


def mmsegmentation(original):
    """Keys and shapes as tools/model_converters/mit2mmseg.py writes them."""
    state = {}
    for key, tensor in original.items():
        head, *rest = key.split(".")
        stage, tail = int(head[-1]) - 1 if head[-1].isdigit() else -1, ".".join(rest)
        if head.startswith("patch_embed"):
            state[f"layers.{stage}.0.{tail.replace('proj.', 'projection.')}"] = tensor
        elif head.startswith("norm"):
            state[f"layers.{stage}.2.{tail}"] = tensor
        elif head.startswith("block") and ".q." in key:
            tail = tail.replace("attn.q.", "attn.attn.in_proj_")
            state[f"layers.{stage}.1.{tail}"] = torch.cat(
                [tensor, original[key.replace(".q.", ".kv.")]]
            )
        elif head.startswith("block") and ".kv." not in key:
            if "mlp.fc" in key and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
            for old, new in (
                ("attn.proj", "attn.attn.out_proj"),
                ("mlp.fc1", "ffn.layers.0"),
                ("mlp.dwconv.dwconv", "ffn.layers.1"),
                ("mlp.fc2", "ffn.layers.4"),
            ):
                tail = tail.replace(old, new)
            state[f"layers.{stage}.1.{tail}"] = tensor
    return state


@pytest.mark.parametrize("layout", ["mmsegmentation", "hub", "hub file", "whole model", "run"])
def test_every_layout_gives_the_same_encoder(layout, original, student, hub, tmp_path):
    expected = student.backbone.state_dict()
    path = tmp_path / "mit.safetensors"
    if layout == "mmsegmentation":
        save_file({k: v.contiguous() for k, v in mmsegmentation(original).items()}, path)
    elif layout == "whole model":
        state = {f"segformer.{k}": v for k, v in expected.items()}
        save_file(state | {"decode_head.classifier.weight": torch.zeros(1)}, path)
    elif layout == "run":
        save_file(student.state_dict(), path)
    else:
        path = hub if layout == "hub" else hub / "model.safetensors"
    for name, value in SegFormer("b0", 8, str(path)).backbone.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_weights_of_another_size_are_refused_by_name(student, tmp_path):
    save_file({"encoder.x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"parameters differ, first .*expected .* got nothing"):
        SegFormer("b0", 8, str(tmp_path / "other.safetensors"))
