"""Models of transformers give what transformers gives, and bring no code."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_transformers as tiny
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, SiglipImageProcessorPil

from c2s.testing import TeacherContract, TextEncoderContract
from c2s_cache import C2SError, ConfigError
from c2s_cache.views import canonical_box, crop_image
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.blocks import taken_apart
from c2s_pipeline.teachers.registry import load_teacher, load_text_encoder
from c2s_pipeline.teachers.transformers_teacher import TransformersTeacher


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, by its name as a teacher."""
    root = tmp_path_factory.mktemp("transformers")
    return {kind: tiny.folder(kind, root / kind) for kind in tiny.KINDS}


def noise(side, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def near(got, want):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def features(model, pixels):
    """`get_image_features` of square images, patches of NaFlex as its own processor orders them."""
    if model.config.model_type != "siglip2":
        size = pixels.shape[-1]
        return model.get_image_features(pixels, interpolate_pos_encoding=size != 32).pooler_output
    from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

    patches = torch.stack([convert_image_to_patches(p, 8) for p in pixels])
    side = pixels.shape[-1] // 8
    shapes = torch.tensor([[side, side]] * len(pixels))
    mask = torch.ones(patches.shape[:2], dtype=torch.int32)
    return model.get_image_features(patches, mask, shapes).pooler_output


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("size", [32, 48])
def test_an_embedding_is_that_of_get_image_features(folders, kind, size):
    teacher, model = load_teacher(TeacherSpec(folders[kind], dense_size=size)), tiny.model(kind)
    assert isinstance(teacher, TransformersTeacher)
    cls, dense = teacher.dense(noise(size))
    with torch.inference_mode():
        near(cls, features(model, teacher.prepare(noise(size))))
        near(teacher.embed_images(noise(32)), features(model, teacher.prepare(noise(32))))
    assert dense.shape == (2, size // 8, size // 8, teacher.dim)
    info = teacher.info()
    assert info.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    bias = getattr(model, "logit_bias", None)
    assert info.logit_bias == (None if bias is None else pytest.approx(float(bias.detach())))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_blocks_are_taken_apart(folders, kind):
    tower = load_teacher(TeacherSpec(folders[kind])).tower
    block, x = tower.blocks[-1], torch.randn(2, 9, 32)
    parts = taken_apart(block)
    with torch.inference_mode():
        q, k, v = parts.qkv(parts.before(x))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        near(parts.rest(x, parts.out(mixed.transpose(1, 2).flatten(2))), block(x, None))


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_pooled_patches_are_values_of_the_attention_pooling(folders, kind):
    teacher = load_teacher(TeacherSpec(folders[kind], dense_features="pooled"))
    plain = load_teacher(TeacherSpec(folders[kind])).dense(noise(32))[1]
    head = tiny.model(kind).vision_model.head
    weights, bias = head.attention.in_proj_weight[64:], head.attention.in_proj_bias[64:]
    with torch.inference_mode():
        x = head.attention.out_proj(plain @ weights.T + bias)
        want = x + head.mlp(head.layernorm(x))
    near(teacher.dense(noise(32))[1], want)


def test_plain_patches_go_the_way_of_the_cls_token(folders):
    model, teacher = tiny.model("clip"), load_teacher(TeacherSpec(folders["clip"]))
    with torch.inference_mode():
        tokens = model.vision_model(teacher.prepare(noise(32))).last_hidden_state[:, 1:]
        want = model.visual_projection(model.vision_model.post_layernorm(tokens))
    near(teacher.dense(noise(32))[1].flatten(1, 2), want)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_sentences_go_through_its_own_tokenizer(folders, kind):
    """SigLIP's takes capitals and full stops away; SigLIP 2 learnt small letters, which its files do not say."""
    path = folders[kind].removeprefix("local-dir:")
    encoder, model = load_text_encoder(TeacherSpec(folders[kind])), tiny.model(kind)
    said = [s.lower() for s in tiny.SENTENCES] if kind == "siglip2" else tiny.SENTENCES
    tokens = AutoTokenizer.from_pretrained(path)(
        said, padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.inference_mode():
        want = model.get_text_features(tokens["input_ids"]).pooler_output
    near(encoder.embed_text(tiny.SENTENCES), torch.nn.functional.normalize(want, dim=-1))
    small = encoder.embed_text([s.lower() for s in tiny.SENTENCES])
    assert torch.equal(encoder.embed_text(tiny.SENTENCES), small)
    bare = encoder.embed_text(["a sky", "A sky."])
    assert torch.equal(bare[0], bare[1]) == (kind == "siglip")


def test_nothing_of_the_image_tower_is_held(folders):
    encoder = load_text_encoder(TeacherSpec(folders["siglip"]))
    assert not [k for k in encoder._model.state_dict() if k.startswith("vision_model.")]


@pytest.mark.parametrize(
    ("kind", "processor", "mean", "ways"),
    [
        ("clip", CLIPImageProcessorPil, 0.48145466, ("shortest", "bicubic")),
        ("siglip", SiglipImageProcessorPil, 0.5, ("squash", "bicubic")),
        ("siglip2", None, 0.5, ("squash", "bilinear")),
    ],
)
def test_views_are_those_of_its_own_preprocessing(folders, kind, processor, mean, ways):
    path = folders[kind].removeprefix("local-dir:")
    teacher = load_teacher(TeacherSpec(folders[kind]))
    info = teacher.info()
    assert info.mean[0] == mean
    assert (info.resize_mode, info.interpolation) == ways
    if processor is None:  # its own keeps the aspect
        return
    rng = np.random.default_rng(0)
    for height, width in ((50, 70), (33, 100)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        inputs = processor.from_pretrained(path)(Image.fromarray(image), return_tensors="pt")
        view = crop_image(
            image,
            canonical_box(height, width, 32, info.resize_mode),
            False,
            32,
            info.interpolation,
        )
        near(teacher.prepare(view[None]), inputs["pixel_values"])


CODE = """
from pathlib import Path
Path({ran!r}).touch()
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
class OwnConfig(CLIPConfig): pass
class OwnModel(CLIPModel): pass
class OwnTokenizer(CLIPTokenizer): pass
"""


def changed(path: Path, file: str, kind: str = "clip", **settings) -> str:
    """A folder with other settings in a file, and code beside it that tells if it runs."""
    name = tiny.folder(kind, path)
    (path / "own.py").write_text(CODE.format(ran=str(path / "ran")))
    given = json.loads((path / file).read_text()) if (path / file).is_file() else {}
    (path / file).write_text(json.dumps({**given, **settings}))
    return name


MAPS = {f"Auto{kind}": f"own.Own{kind}" for kind in ("Config", "Model")}


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"auto_map": MAPS}, "brings Python code of its own"),
        ("config.json", {"auto_map": MAPS, "model_type": "own"}, "cannot be loaded"),
        ("config.json", {"model_type": "bert"}, "of the kind 'bert'; of transformers c2s distils"),
        ("config.json", {"attn_implementation": "someone/kernel"}, "brings Python code of its own"),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, "quantised weights"),
        ("preprocessor_config.json", {"resample": 0}, "interpolation None; c2s has"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 40}}, "before it crops them"),
    ],
)
def test_a_hostile_or_strange_folder_executes_nothing(
    tmp_path, monkeypatch, file, settings, message
):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    name = changed(tmp_path, file, **settings)
    with pytest.raises(C2SError, match=message) as caught:
        load_teacher(TeacherSpec(name))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_no_kind_brings_code(tmp_path, monkeypatch, kind, file):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    maps = MAPS | {"AutoProcessor": "own.OwnProcessor", "AutoImageProcessor": "own.OwnProcessor"}
    name = changed(tmp_path, file, kind, auto_map=maps, trust_remote_code=True)
    with contextlib.suppress(C2SError):
        load_teacher(TeacherSpec(name)).text.embed_text(["a"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_tokenizer_with_code_of_its_own_does_not_run_it(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    code = {"AutoTokenizer": ["own.OwnTokenizer", None]}
    settings = {"auto_map": code, "tokenizer_class": "OwnTokenizer"}
    name = changed(tmp_path, "tokenizer_config.json", kind, **settings)
    with contextlib.suppress(C2SError):
        load_text_encoder(TeacherSpec(name)).embed_text(["a"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_pickles_are_not_read(tmp_path, kind):
    name = tiny.folder(kind, tmp_path)
    torch.save(tiny.model(kind).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(C2SError, match=r"cannot be loaded.*safetensors"):
        load_teacher(TeacherSpec(name))


@pytest.mark.parametrize("alone", [True, False])
def test_weights_that_lack_something_are_refused(tmp_path, alone):
    from safetensors.torch import load_file, save_file

    name = tiny.folder("siglip", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["text_model.head.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(C2SError, match=r"its weights lack text_model\.head\.weight"):
        (load_text_encoder if alone else load_teacher)(TeacherSpec(name))


def test_a_repository_that_is_not_here_is_named_with_the_way_to_it(monkeypatch):
    for module in ("c2s_cache.hub", "c2s_pipeline.teachers.transformers_teacher"):
        monkeypatch.setattr(f"{module}.hub_answers", lambda: False)
    with pytest.raises(C2SError, match=r"someone/model is not on this machine, .*hf download") as e:
        load_teacher(TeacherSpec("hf:someone/model"))
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match="write hf:OWNER/NAME"):
        load_teacher(TeacherSpec("hf:/tmp"))


def test_heads_are_part_of_the_digest(tmp_path):
    """The same weights compute something else with another number of heads, or another activation."""
    name = tiny.folder("clip", tmp_path)
    before = load_teacher(TeacherSpec(name)).info()
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    after = load_teacher(TeacherSpec(name)).info()
    assert after.tower_digest != before.tower_digest
    assert after.text_digest == before.text_digest


class Contract(TeacherContract):
    kind = "clip"
    features = "plain"

    @pytest.fixture(autouse=True)
    def _here(self, folders):
        self.folder = folders[self.kind]

    def spec(self):
        return TeacherSpec(self.folder, dense_features=self.features)


class TestCLIP(Contract): ...


class TestSiglip(Contract):
    kind, features = "siglip", "pooled"


class TestSiglip2(Contract):
    kind, features = "siglip2", "neighbour"


class TextContract(TextEncoderContract):
    kind = "clip"

    @pytest.fixture(autouse=True)
    def _here(self, folders):
        self.folder = folders[self.kind]

    def spec(self):
        return TeacherSpec(self.folder)


class TestCLIPText(TextContract): ...


class TestSiglipText(TextContract):
    kind = "siglip"


class TestSiglip2Text(TextContract):
    kind = "siglip2"
