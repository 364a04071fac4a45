"""Every variant of the dense features against a plain re-implementation: loops, one head at a time."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from small_builds import made

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import ConfigError, MismatchError, open_cache
from c2s_cache.integrity import verify
from c2s_pipeline.build.builder import build
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.dense import NEIGHBOUR_STD, neighbourhood
from c2s_pipeline.teachers.open_clip_vit import OpenClipViT
from c2s_pipeline.teachers.registry import load_teacher

GRID, HEADS, WIDTH, DIM = 4, 2, 64, 32
PIXELS = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tiny_teacher):
    return {
        k: v.double().numpy()
        for k, v in open_clip.create_model(tiny_teacher).visual.state_dict().items()
    }


def norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def embed(image, weights, teacher):
    """Tokens [17, 64] of one image, CLS first, before the first block."""
    pixels = teacher.prepare(image[None])[0].double().numpy()
    tokens = [weights["class_embedding"]]
    for y in range(GRID):
        for x in range(GRID):
            patch = pixels[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            tokens.append((weights["conv1.weight"] * patch).sum((1, 2, 3)))
    return norm(np.stack(tokens) + weights["positional_embedding"], weights, "ln_pre")


def gaussian(a, b):
    if 0 in (a, b):
        return 0.0
    (ya, xa), (yb, xb) = divmod(a - 1, GRID), divmod(b - 1, GRID)
    return np.exp(-((ya - yb) ** 2 + (xa - xb) ** 2) / (2 * NEIGHBOUR_STD**2))


def attention(x, weights, at, pairs, bias=lambda a, b: 0.0):
    """Sum over `pairs` of the softmax attention of one projection with another, or values alone."""
    y = norm(x, weights, f"{at}.ln_1")
    qkv = y @ weights[f"{at}.attn.in_proj_weight"].T + weights[f"{at}.attn.in_proj_bias"]
    out = np.zeros_like(x)
    size = WIDTH // HEADS
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        side = {name: qkv[:, i * WIDTH : (i + 1) * WIDTH][:, part] for i, name in enumerate("qkv")}
        if not pairs:
            out[:, part] = side["v"]
        for left, right in pairs:
            for i in range(len(x)):
                scores = np.array(
                    [
                        side[left][i] @ side[right][j] / np.sqrt(size) + bias(i, j)
                        for j in range(len(x))
                    ]
                )
                exp = np.exp(scores - scores.max())
                out[i, part] += exp / exp.sum() @ side["v"]
    return out @ weights[f"{at}.attn.out_proj.weight"].T + weights[f"{at}.attn.out_proj.bias"]


def feed_forward(x, weights, at):
    from scipy.special import erf

    hidden = norm(x, weights, f"{at}.ln_2") @ weights[f"{at}.mlp.c_fc.weight"].T
    hidden = hidden + weights[f"{at}.mlp.c_fc.bias"]
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    return hidden @ weights[f"{at}.mlp.c_proj.weight"].T + weights[f"{at}.mlp.c_proj.bias"]


def whole_block(x, weights, at, pairs=(("q", "k"),)):
    x = x + attention(x, weights, at, pairs)
    return x + feed_forward(x, weights, at)


BARE = {
    "value": (),
    "qq": (("q", "q"),),
    "kk": (("k", "k"),),
    "vv": (("v", "v"),),
    "neighbour": (("k", "k"),),
}


def reference(name, image, weights, teacher):
    """Dense features [4, 4, C] of one image."""
    first, last = "transformer.resblocks.0", "transformer.resblocks.1"
    x = whole_block(embed(image, weights, teacher), weights, first)
    if name in ("penultimate", "mid"):  # of two blocks, the first
        return x[1:].reshape(GRID, GRID, WIDTH)
    if name in BARE:
        bias = gaussian if name == "neighbour" else lambda a, b: 0.0
        x = attention(x, weights, last, BARE[name], bias)
    elif name == "qq-kk":
        x = whole_block(x, weights, last, (("q", "q"), ("k", "k")))
    elif name == "maskclip":  # v += x; v = ffn(norm(v), identity=v)
        value = x + attention(x, weights, last, ())
        x = value + feed_forward(value, weights, last)
    else:
        x = whole_block(x, weights, last)
    x = norm(x, weights, "ln_post")[1:]
    if name != "unprojected":
        x = x @ weights["proj"]
    return x.reshape(GRID, GRID, -1)


@pytest.mark.parametrize(
    "name", ["plain", "unprojected", "penultimate", "mid", *BARE, "qq-kk", "maskclip"]
)
def test_parity_with_loops_over_heads_and_tokens(name, tiny_teacher, weights):
    teacher = load_teacher(TeacherSpec(tiny_teacher, None, dense_features=name))
    cls, dense = teacher.dense(PIXELS)
    want = np.stack([reference(name, image, weights, teacher) for image in PIXELS])
    assert dense.shape == want.shape
    assert dense.shape[-1] == teacher.dense_dim == teacher.info().dense_dim
    np.testing.assert_allclose(dense.numpy(), want, atol=2e-4 * np.abs(want).max())
    torch.testing.assert_close(cls, teacher.embed_images(PIXELS))


def test_variants_differ_from_each_other(tiny_teacher):
    found = []
    for name in ("plain", *BARE, "qq-kk", "maskclip"):
        spec = TeacherSpec(tiny_teacher, None, dense_features=name)
        found.append(load_teacher(spec).dense(PIXELS)[1])
    for i, a in enumerate(found):
        for b in found[:i]:
            assert (a - b).abs().max() > 1e-3 * a.abs().max()


def test_neighbourhood_is_one_at_home_and_nothing_at_the_cls_token():
    window = neighbourhood((2, 3))
    assert window.shape == (7, 7)
    assert torch.equal(window.diagonal(), torch.tensor([0.0] + [1.0] * 6))
    assert not window[0].any()
    assert not window[:, 0].any()
    assert window[1, 2] == pytest.approx(np.exp(-1 / 50))
    assert window[1, 5] == pytest.approx(np.exp(-2 / 50))


def test_a_tower_that_cannot_give_the_variant_is_refused(tiny_teacher):
    cfg = {"layers": 1, "width": 32, "heads": 1, "mlp_ratio": 1.0, "image_size": 16}
    single = open_clip.transformer.VisionTransformer(patch_size=8, **cfg)
    assert OpenClipViT(single, "small").variants == ("plain",)
    cfg["layers"] = 2
    other = open_clip.transformer.VisionTransformer(patch_size=8, qk_norm=True, **cfg)
    assert OpenClipViT(other, "odd").variants == ("plain", "unprojected", "penultimate", "mid")
    with pytest.raises(ConfigError, match="dense features 'pooled'; it gives plain, unproj"):
        load_teacher(TeacherSpec(tiny_teacher, dense_features="pooled"))


@pytest.mark.slow
def test_a_cache_says_which_tokens_it_clustered(tiny_teacher, scheduler, coco_tree, tmp_path):
    source = FolderSplit(DESCRIPTOR, coco_tree(2), "train")
    settings = {"teacher": tiny_teacher, "view_size": 32, "masks": {"windows": (2,)}}
    prints = {}
    for name in ("plain", "mid"):
        request = made(dense_features=name, dense="int8", **settings)
        build(source, request, tmp_path / f"{name}.zarr", scheduler=scheduler)
        cache = open_cache(tmp_path / f"{name}.zarr")
        assert verify(cache) == []
        assert cache.manifest.teacher.dense_features == name
        channels = {"plain": DIM, "mid": WIDTH}[name]
        assert cache.column("dense/tokens").shape == (2, 1, GRID, GRID, channels)
        prints[name] = cache.manifest.fingerprints
    changed = {s for s in prints["mid"] if prints["mid"][s] != prints["plain"][s]}
    assert changed == {"dense", "masks", "regions"}
    with pytest.raises(MismatchError, match="dense_features"):
        build(source, request.model_copy(update={"dense_features": "kk"}), tmp_path / "mid.zarr")
