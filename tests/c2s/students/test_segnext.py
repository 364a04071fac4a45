"""SegNeXt against plain functions of the original checkpoint, and its two layouts of keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath

from c2s.students.segnext import Factorisation, SegNeXt
from c2s_cache.errors import ConfigError

WIDTHS, DEPTHS = (32, 64, 160, 256), (3, 3, 5, 2)
RATIOS = (8, 8, 4, 4)


@pytest.fixture(scope="module")
def original():
    """Random MSCAN-T in the layout of mscan_t.pth, its classifier included."""
    rng = torch.Generator().manual_seed(1)
    state = {}

    def conv(name, outputs, inputs, height, width):
        fan = inputs * height * width
        weight = torch.randn(outputs, inputs, height, width, generator=rng)
        state[f"{name}.weight"] = weight * fan**-0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=rng)

    def norm(name, width, batch=True):
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=rng)
        state[f"{name}.bias"] = 0.1 * torch.randn(width, generator=rng)
        if batch:
            state[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=rng)
            state[f"{name}.running_var"] = 1 + torch.rand(width, generator=rng)

    inputs = 3
    for i, (width, depth, ratio) in enumerate(zip(WIDTHS, DEPTHS, RATIOS, strict=True), 1):
        if i == 1:
            conv("patch_embed1.proj.0", width // 2, inputs, 3, 3)
            norm("patch_embed1.proj.1", width // 2)
            conv("patch_embed1.proj.3", width, width // 2, 3, 3)
            norm("patch_embed1.proj.4", width)
        else:
            conv(f"patch_embed{i}.proj", width, inputs, 3, 3)
            norm(f"patch_embed{i}.norm", width)
        for j in range(depth):
            block = f"block{i}.{j}"
            norm(f"{block}.norm1", width)
            norm(f"{block}.norm2", width)
            for part in ("proj_1", "proj_2", "spatial_gating_unit.conv3"):
                conv(f"{block}.attn.{part}", width, width, 1, 1)
            gate = f"{block}.attn.spatial_gating_unit"
            conv(f"{gate}.conv0", width, 1, 5, 5)
            for n, length in enumerate((7, 11, 21)):
                conv(f"{gate}.conv{n}_1", width, 1, 1, length)
                conv(f"{gate}.conv{n}_2", width, 1, length, 1)
            conv(f"{block}.mlp.fc1", ratio * width, width, 1, 1)
            conv(f"{block}.mlp.dwconv.dwconv", ratio * width, 1, 3, 3)
            conv(f"{block}.mlp.fc2", width, ratio * width, 1, 1)
            for n in (1, 2):
                state[f"{block}.layer_scale_{n}"] = torch.rand(width, generator=rng)
        norm(f"norm{i}", width, batch=False)
        inputs = width
    state["head.weight"] = torch.zeros(1000, inputs)
    state["head.bias"] = torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def student(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mscan_t.pth"
    torch.save({"state_dict": original}, path)
    torch.manual_seed(0)
    return SegNeXt("t", 24, str(path)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))


def reference_maps(state, x):
    """The four stages of MSCAN, written down from the paper, on tensors of the original names."""

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, state[f"{name}.bias"], stride, padding, groups=groups)

    def norm(name, x):
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    maps = []
    for i, depth in enumerate(DEPTHS, 1):
        if i == 1:
            x = F.gelu(norm("patch_embed1.proj.1", conv("patch_embed1.proj.0", x, 2)))
            x = norm("patch_embed1.proj.4", conv("patch_embed1.proj.3", x, 2))
        else:
            x = norm(f"patch_embed{i}.norm", conv(f"patch_embed{i}.proj", x, 2))
        for j in range(depth):
            block, gate = f"block{i}.{j}", f"block{i}.{j}.attn.spatial_gating_unit"
            y = norm(f"{block}.norm1", x)
            u = F.gelu(conv(f"{block}.attn.proj_1", y))
            near = conv(f"{gate}.conv0", u)
            far = [conv(f"{gate}.conv{n}_2", conv(f"{gate}.conv{n}_1", near)) for n in range(3)]
            attended = conv(f"{gate}.conv3", near + far[0] + far[1] + far[2]) * u
            y = conv(f"{block}.attn.proj_2", attended) + y
            x = x + state[f"{block}.layer_scale_1"][:, None, None] * y
            y = conv(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))
            y = conv(f"{block}.mlp.fc2", F.gelu(conv(f"{block}.mlp.dwconv.dwconv", y)))
            x = x + state[f"{block}.layer_scale_2"][:, None, None] * y
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        weight, bias = (state[f"norm{i}.{p}"][:, None, None] for p in ("weight", "bias"))
        x = (x - mean) / (var + 1e-5).sqrt() * weight + bias
        maps.append(x)
    return maps


def reference_head(head, maps):
    """Light Hamburger head of one image's maps [1, C, h, w], in float64, with the head's own weights."""
    state = {k: v.double() for k, v in head.state_dict().items()}

    def conv(name, x, bias=False):
        y = torch.einsum("oi,ihw->ohw", state[f"{name}.weight"][:, :, 0, 0], x)
        return y + state[f"{name}.bias"][:, None, None] if bias else y

    def conv_norm(name, x):
        y = conv(f"{name}.0", x)
        grouped = y.reshape(32, -1)
        mean, var = grouped.mean(1, keepdim=True), grouped.var(1, keepdim=True, unbiased=False)
        y = ((grouped - mean) / (var + 1e-5).sqrt()).reshape(y.shape)
        return y * state[f"{name}.1.weight"][:, None, None] + state[f"{name}.1.bias"][:, None, None]

    size = maps[0].shape[-2:]
    x = torch.cat([F.interpolate(m.double(), size, mode="bilinear") for m in maps], dim=1)[0]
    x = conv_norm("squeeze", x).relu()
    ham = conv("lower_bread", x, bias=True).relu().flatten(1).numpy()
    ham = torch.from_numpy(multiplicative_updates(ham, head.ham.bases[0].double().numpy(), 7))
    x = (x + conv_norm("upper_bread", ham.reshape(x.shape))).relu()
    return conv("classifier", conv_norm("align", x).relu(), bias=True)[None]


def multiplicative_updates(v, w, steps):
    """W H^T of V [C, N] from bases W [C, R]: `steps` updates of both, then one of H."""
    h = np.exp(v.T @ w)
    h /= h.sum(1, keepdims=True)
    for step in range(steps + 1):
        h = h * (v.T @ w) / (h @ (w.T @ w) + 1e-6)
        if step < steps:
            w = w * (v @ h) / (w @ (h.T @ h) + 1e-6)
    return w @ h.T


def test_logits_equal_those_of_plain_functions(original, student, images):
    with torch.inference_mode():
        expected = reference_maps(original, images)
        for ours, theirs in zip(student.backbone(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        features = student(images)
        assert features.shape == (2, 24, 8, 12)
        for image in range(2):
            maps = [m[image : image + 1] for m in expected[1:]]
            logits = reference_head(student.head, maps).float()
            torch.testing.assert_close(features[image : image + 1], logits, rtol=1e-3, atol=1e-4)


def test_mmsegmentations_names_are_read_as_well(original, student, tmp_path):
    renamed = {
        f"backbone.{k.replace('mlp.dwconv.dwconv.', 'mlp.dwconv.')}": v for k, v in original.items()
    }
    renamed["decode_head.conv_seg.weight"] = torch.zeros(150, 256, 1, 1)
    torch.save({"meta": {"epoch": 1}, "state_dict": renamed}, tmp_path / "mscan_t_20230227.pth")
    other = SegNeXt("t", 24, str(tmp_path / "mscan_t_20230227.pth"))
    theirs = student.backbone.state_dict()
    for name, value in other.backbone.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_a_checkpoint_of_another_size_names_its_first_misfit(original, tmp_path):
    torch.save(original, tmp_path / "mscan_t.pth")
    first = r"original MSCAN layout.*first stages\.0\.embed\.0\.weight \(expected \(32, 3, 3, 3\)"
    with pytest.raises(ConfigError, match=first):
        SegNeXt("s", 24, str(tmp_path / "mscan_t.pth"))
    bias = "block4.1.mlp.fc2.bias"
    torch.save({k: v for k, v in original.items() if k != bias}, tmp_path / "mscan_t.pth")
    missing = r"1 of \d+ parameters differ, first stages\.3\.blocks\.1\.mlp\.3\.bias .*got nothing"
    with pytest.raises(ConfigError, match=missing):
        SegNeXt("t", 24, str(tmp_path / "mscan_t.pth"))


def test_evaluation_depends_on_image_and_weights_alone(student, images):
    with torch.inference_mode():
        torch.manual_seed(5)
        first = student(images)
        torch.rand(7)
        again = student(images)
        alone = torch.cat([student(images[1:]), student(images[:1])])
        other = SegNeXt("t", 24)
        other.load_state_dict(student.state_dict())
        elsewhere = other.eval()(images)
    assert torch.equal(first, again)
    assert torch.equal(first, elsewhere)
    torch.testing.assert_close(alone, first.flip(0), rtol=1e-4, atol=1e-5)
    assert not any("bases" in key for key in student.state_dict())


def test_training_draws_bases_and_passes_gradients_through_them():
    ham = Factorisation(64, 16)
    x = torch.rand(2, 64, 5, 7, requires_grad=True)
    assert torch.equal(ham.eval()(x), ham(x))
    ham.train()
    assert not torch.allclose(ham(x), ham(x), atol=1e-6)
    ham(x).square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_factorisation_is_computed_in_float32_under_autocast():
    ham = Factorisation(64, 16).eval()
    x = torch.rand(1, 64, 6, 6)
    expected = ham(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ham(x), expected)


def test_every_parameter_learns():
    student = SegNeXt("t", 24).train()
    for module in student.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    student(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [n for n, p in student.named_parameters() if p.grad is None] == []
