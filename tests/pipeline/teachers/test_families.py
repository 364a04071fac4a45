"""Every family of open_clip's image towers gives what its library gives, and dense features that follow from it."""

from __future__ import annotations

import json
import warnings

import numpy as np
import open_clip
import pytest
import timm
import tiny_towers
import torch
from PIL import Image
from safetensors.torch import save_file

from c2s.testing import TeacherContract, TextEncoderContract
from c2s_cache import ConfigError
from c2s_cache.views import canonical_box, crop_image
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.blocks import taken_apart
from c2s_pipeline.teachers.registry import load_teacher, load_text_encoder
from c2s_pipeline.teachers.timm_vit import TimmViT

NAMES = tuple(tiny_towers.configurations())
MAPS = ("tiny_map", "tiny_pe")
POSITIONS = ("tiny_resnet", "tiny_convnext", "tiny_fastvit", "tiny_swin", "tiny_coca")
"""Towers whose patches are pooled one by one."""


def noise(side, count=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def near(got, want, tolerance=1e-5):
    """Relative to the largest: random heads may give small numbers."""
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def shaken(teacher):
    """Other weights than the first ones, in which whole branches are zero or alike."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in teacher._model.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return teacher


@pytest.mark.parametrize("name", NAMES)
def test_an_embedding_is_that_of_the_library(name):
    teacher = load_teacher(TeacherSpec(name, "random"))
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    images = noise(teacher.image_size, 3)
    with torch.inference_mode():
        want = model.visual(teacher.prepare(images))
    want = want[0] if isinstance(want, tuple) else want
    near(teacher.embed_images(images), want)
    near(teacher.dense(images)[0], want)
    assert teacher.info().logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_taken_apart_whichever_library_made_them(name):
    """A block that sees one token attends to it alone, whatever positions it turns or adds."""
    tower = shaken(load_teacher(TeacherSpec(name, "random"))).tower
    if not hasattr(tower, "blocks"):
        return
    block, x = tower.blocks[-1], torch.randn(3, 1, tower.width)
    parts = taken_apart(block)
    if name == "tiny_eva_post":  # its norms stand behind the branches
        assert parts is None
        return
    with torch.inference_mode():
        if name == "tiny_relpos":  # its positions are those of the whole grid
            block.attn.rel_pos = None
        value = parts.qkv(parts.before(x))[2]
        near(parts.rest(x, parts.out(value.squeeze(2).flatten(1)[:, None])), block(x))
        if tower.rotated:
            return
        x = torch.randn(3, 9, tower.width)
        q, k, v = parts.qkv(parts.before(x))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        near(parts.rest(x, parts.out(mixed.transpose(1, 2).flatten(2))), block(x))


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("tiny_t", "tiny_e"))])
def test_plain_patches_go_the_way_of_the_cls_token(name):
    """After the last block, a token of a patch is treated as the CLS token: exchanged, they give each other."""
    teacher = shaken(load_teacher(TeacherSpec(name, "random")))
    trunk, heard = teacher.tower.visual.trunk, []
    trunk.blocks.register_forward_hook(lambda module, args, out: heard.append(out))
    trunk.blocks[-1].register_forward_hook(lambda module, args, out: heard.append(out))
    dense = teacher.dense(noise(32))[1]
    tokens = heard[0]
    for patch in (0, 7, 15):
        turned = torch.cat([tokens[:, trunk.num_prefix_tokens + patch, None], tokens[:, 1:]], 1)
        with torch.inference_mode():
            want = teacher.tower.visual.head(trunk.forward_head(trunk.norm(turned)))
        near(dense.flatten(1, 2)[:, patch], want)


@pytest.mark.parametrize("name", MAPS)
def test_pooled_patches_are_values_of_the_attention_pooling(name):
    teacher = shaken(load_teacher(TeacherSpec(name, "random", dense_features="pooled")))
    trunk, pixels = teacher.tower.visual.trunk, teacher.prepare(noise(32))
    dense = teacher.dense(noise(32))[1].flatten(1, 2)
    with torch.inference_mode():
        tokens, pool = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :], trunk.attn_pool
        value = pool.kv(tokens)[..., tokens.shape[-1] :]
        x = pool.proj(value)
        want = trunk.head(trunk.fc_norm(x + pool.mlp(pool.norm(x))))
    near(dense, want)
    assert teacher.tower.variants[:2] == ("plain", "pooled")


@pytest.mark.parametrize("name", POSITIONS)
def test_a_position_is_pooled_as_if_it_were_alone(name):
    """A picture of one cell has the embedding of that cell, where nothing else of a tower sees further."""
    teacher = shaken(load_teacher(TeacherSpec(name, "random")))
    visual, images = teacher.tower.visual, noise(teacher.image_size)
    dense = teacher.dense(images)[1]
    if name == "tiny_resnet":
        maps = teacher.tower._maps(teacher.prepare(images))
        weights = visual.attnpool
        for y, x in ((0, 0), (1, 0), (1, 1)):
            cell = maps[:, :, y, x] + weights.positional_embedding[1 + 2 * y + x]
            near(dense[:, y, x], weights.c_proj(weights.v_proj(cell)))
        return
    if name == "tiny_coca":
        tokens = visual.transformer(visual._embeds(teacher.prepare(images)))
        pooled = visual.attn_pool(tokens[:, 4:5])[:, 0]
        near(dense[:, 0, 3], visual.ln_post(pooled) @ visual.proj)
        return
    maps = visual.trunk.forward_features(teacher.prepare(images))
    for y, x in ((0, 0), (1, 0), (1, 1)):
        cell = (
            maps[:, y : y + 1, x : x + 1]
            if name == "tiny_swin"
            else maps[..., y : y + 1, x : x + 1]
        )
        near(dense[:, y, x], visual.head(visual.trunk.forward_head(cell)))


@pytest.mark.parametrize("name", NAMES)
def test_another_dense_size(name):
    """As the library itself resizes the tower, where it can."""
    native = load_teacher(TeacherSpec(name, "random"))
    before, size = native.info().tower_digest, 2 * native.image_size
    teacher = load_teacher(TeacherSpec(name, "random", dense_size=size))
    assert teacher.info().tower_digest == before
    cls, dense = teacher.dense(noise(size))
    assert dense.shape[1:3] == (size // teacher.patch_size,) * 2
    assert torch.isfinite(dense).all()
    if hasattr(native.tower.visual, "trunk"):
        with warnings.catch_warnings(action="ignore"), torch.inference_mode():
            native.tower.visual.set_input_size(size)
            near(cls, native.tower.visual.eval()(teacher.prepare(noise(size))))


def test_a_size_that_patches_do_not_divide_is_cut_as_the_tower_cuts_it(tmp_path):
    """SigLIP SO400M at 384 pixels has patches of 14: the tower leaves the last six pixels out."""
    config = tiny_towers.configurations()["tiny_map"]
    config["vision_cfg"] = {**config["vision_cfg"], "image_size": 35, "timm_model_name": "tiny_odd"}
    settings = {**tiny_towers.VIT, "img_size": 35, "class_token": False, "global_pool": "map"}
    tiny_towers._registered("tiny_odd", timm.models.VisionTransformer, settings)
    (tmp_path / "tiny_odd.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    teacher = load_teacher(TeacherSpec("tiny_odd", "random"))
    assert (teacher.image_size, teacher.dense_size, teacher.grid) == (35, 32, (4, 4))
    images = noise(35)
    near(teacher.dense(images[:, :32, :32])[0], teacher.embed_images(images))


@pytest.mark.parametrize("sides", [(32, 48), (48, 32)])
def test_what_is_not_square_is_refused_in_a_sentence(sides, tmp_path):
    config = tiny_towers.configurations()["tiny_vit"]
    config["vision_cfg"] = {**config["vision_cfg"], "image_size": sides}
    (tmp_path / "tiny_wide.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    with pytest.raises(ConfigError, match=f"takes images of {sides[0]} x {sides[1]} pixels"):
        load_teacher(TeacherSpec("tiny_wide", "random"))


WAYS = [
    ("ViT-B-16-SigLIP", (0.5, 0.5, 0.5), "squash", "bicubic"),
    ("PE-Core-T-16-384", (0.5, 0.5, 0.5), "squash", "bilinear"),
    ("MobileCLIP2-S0", (0.0, 0.0, 0.0), "shortest", "bilinear"),
    ("RN50", (0.48145466, 0.4578275, 0.40821073), "shortest", "bicubic"),
]


@pytest.mark.parametrize(("name", "mean", "resize_mode", "interpolation"), WAYS)
def test_views_are_those_of_the_models_own_preprocessing(
    name, mean, resize_mode, interpolation, monkeypatch
):
    """Of a tag, and of a file, which does not tell: pixel for pixel."""
    tag = open_clip.list_pretrained_tags_by_model(name)[0]
    config = open_clip.get_pretrained_cfg(name, tag)
    transform = open_clip.image_transform(
        64, False, config["mean"], config["std"], config["resize_mode"], config["interpolation"]
    )
    tiny = "tiny_token"
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, tiny, {"own": config, "two": config})
    teacher = load_teacher(TeacherSpec(tiny, "random"))
    info = teacher.info()
    assert (info.mean, info.resize_mode, info.interpolation) == (mean, resize_mode, interpolation)
    rng = np.random.default_rng(0)
    for height, width in ((50, 90), (71, 40), (64, 64), (200, 150)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        want = transform(Image.fromarray(image))
        box = canonical_box(height, width, 64, info.resize_mode)
        view = crop_image(image, box, False, 64, info.interpolation)
        torch.testing.assert_close(teacher.prepare(view[None])[0], want, rtol=0, atol=1e-6)


def test_a_tag_decides_where_those_of_a_model_differ(monkeypatch, tmp_path):
    tiny, folder = "tiny_token", tmp_path / "model.safetensors"
    torch.manual_seed(0)
    save_file(dict(open_clip.create_model(tiny).state_dict()), folder)
    entry = open_clip.pretrained._pcfg
    tags = {"a": entry(mean=(0.1,) * 3), "b": entry(mean=(0.2,) * 3, resize_mode="squash")}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, tiny, tags)
    assert load_teacher(TeacherSpec(tiny, str(folder))).info().resize_mode == "shortest"
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *a, **k: str(folder))
    found = load_teacher(TeacherSpec(tiny, "b")).info()
    assert (found.mean, found.resize_mode) == ((0.2,) * 3, "squash")
    monkeypatch.setitem(tags, "b", entry(resize_mode="longest"))
    with pytest.raises(
        ConfigError, match=r"the resize mode 'longest'.*c2s has shortest and squash"
    ):
        load_teacher(TeacherSpec(tiny, "b"))


def test_the_text_tower_of_a_family_alone_is_that_of_the_whole(tmp_path):
    """From the file of the whole model, of which the image tower is not read."""
    torch.manual_seed(0)
    file = tmp_path / "model.safetensors"
    save_file(dict(open_clip.create_model("tiny_pe").state_dict()), file)
    spec, words = TeacherSpec("tiny_pe", str(file)), ["a photo of a cat", "sky"]
    alone, whole = load_text_encoder(spec), load_teacher(spec)
    assert isinstance(whole.tower, TimmViT)
    assert alone.digest == whole.info().text_digest
    assert torch.equal(alone.embed_text(words), whole.text.embed_text(words))


class Registers:
    def spec(self):
        return TeacherSpec("tiny_registers", "random", dense_features="neighbour")


class Rotated:
    def spec(self):
        return TeacherSpec("tiny_eva", "random", dense_size=48)


class Mapped:
    def spec(self):
        return TeacherSpec("tiny_pe", "random", dense_features="pooled")


class ResNet:
    def spec(self):
        return TeacherSpec("tiny_resnet", "random", dense_size=96)


class Convolution:
    def spec(self):
        return TeacherSpec("tiny_convnext", "random")


class Pooled:
    def spec(self):
        return TeacherSpec("tiny_coca", "random")


class TestRegisters(Registers, TeacherContract): ...


class TestRotated(Rotated, TeacherContract): ...


class TestMapped(Mapped, TeacherContract): ...


class TestResNet(ResNet, TeacherContract): ...


class TestConvolution(Convolution, TeacherContract): ...


class TestPooled(Pooled, TeacherContract): ...


class TestTextBesideAMap(Mapped, TextEncoderContract): ...


class TestTextBesideCoCa(Pooled, TextEncoderContract): ...
