"""The teacher gives what open_clip's own model gives."""

import threading

import numpy as np
import open_clip
import pytest
import torch
from pictures import photo
from PIL import Image
from safetensors.torch import save_file

from c2s_cache import C2SError, ConfigError
from c2s_cache import hub as hub_module
from c2s_cache.views import canonical_box, crop_image
from c2s_pipeline.lanes import start_lanes
from c2s_pipeline.teachers import clip_model, model_folder
from c2s_pipeline.teachers import image_teacher as teacher_module
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher, load_text_encoder
from c2s_pipeline.teachers.text import class_embeddings


@pytest.fixture(scope="module")
def teacher(tiny_teacher):
    return load_teacher(TeacherSpec(tiny_teacher, None))


def test_views_are_exactly_open_clips_own_preprocessing():
    resize, crop = open_clip.image_transform(32, is_train=False).transforms[:2]
    rng = np.random.default_rng(0)
    for height, width in ((32, 32), (50, 70), (71, 40), (33, 100), (200, 31), (427, 640)):
        image = photo(rng, height, width)
        got = crop_image(np.asarray(image), canonical_box(height, width, 32), False, 32)
        np.testing.assert_array_equal(got, np.asarray(crop(resize(image))))


def test_cls_tokens_are_encode_image(teacher, tiny_teacher):
    model, _, preprocess = open_clip.create_model_and_transforms(tiny_teacher)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    images = torch.stack([preprocess(Image.fromarray(p)) for p in pixels])
    with torch.inference_mode():
        want = model.eval().encode_image(images)
    torch.testing.assert_close(teacher.embed_images(pixels), want)


def test_dense_features_are_the_projected_last_tokens(teacher, tiny_teacher):
    visual = open_clip.create_model(tiny_teacher).eval().visual
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    cls, dense = teacher.dense(pixels)
    with torch.inference_mode():
        x = visual.transformer(visual._embeds(teacher.prepare(pixels)))
        tokens = visual.ln_post(x) @ visual.proj
    torch.testing.assert_close(cls, tokens[:, 0])
    for y in range(4):
        for x_ in range(4):
            torch.testing.assert_close(dense[:, y, x_], tokens[:, 1 + 4 * y + x_])


def test_a_batch_that_is_cut_gives_the_same(teacher, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    cls, (dense_cls, dense) = teacher.embed_images(images), teacher.dense(images)
    hidden, tokens = 4 * 64, 17
    seen = []
    prepare = teacher.prepare
    monkeypatch.setattr(teacher, "prepare", lambda part: (seen.append(len(part)), prepare(part))[1])
    torch.testing.assert_close(teacher.embed_images(images, batch=3), cls)
    assert seen == [3, 2]
    monkeypatch.setattr(teacher_module, "LARGEST", 2 * 4 * hidden * tokens + 5)
    torch.testing.assert_close(teacher.embed_images(images), cls)
    cut_cls, cut_dense = teacher.dense(images)
    torch.testing.assert_close(cut_cls, dense_cls)
    torch.testing.assert_close(cut_dense, dense)
    assert seen == [3, 2, *2 * [2, 2, 1]]


def test_a_pool_shares_a_batch_out(tiny_teacher, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    both = threading.Barrier(2)
    with start_lanes(2) as pool:
        alone, shared = (
            load_teacher(TeacherSpec(tiny_teacher, None), pool=p) for p in (None, pool)
        )
        prepare = shared.prepare
        monkeypatch.setattr(shared, "prepare", lambda part: (both.wait(20), prepare(part))[1])
        for given, want in (
            (shared.embed_images(images, 4), alone.embed_images(images, 4)),
            (shared.embed_images(images, 2), alone.embed_images(images, 2)),
        ):
            torch.testing.assert_close(given, want, rtol=0, atol=0)


def test_another_dense_size_interpolates_positions(tiny_teacher):
    teacher = load_teacher(TeacherSpec(tiny_teacher, None, dense_size=64))
    assert teacher.grid == (8, 8)
    _, dense = teacher.dense(np.zeros((1, 64, 64, 3), np.uint8))
    assert dense.shape == (1, 8, 8, 32)
    with pytest.raises(ConfigError, match="no multiple of the patch size"):
        load_teacher(TeacherSpec(tiny_teacher, None, dense_size=30))


def test_class_embeddings_are_normalised_means(teacher):
    templates = ("a photo of a {}", "a {} in the scene")
    got = class_embeddings(teacher.text, ["cat", "tree"], templates)
    for name, row in zip(["cat", "tree"], got, strict=True):
        parts = [teacher.text.embed_text([t.format(name)])[0].numpy() for t in templates]
        mean = sum(p / np.linalg.norm(p) for p in parts) / 2
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_digests_depend_on_every_weight_of_their_tower(tiny_teacher):
    teacher = load_teacher(TeacherSpec(tiny_teacher))

    def digests():
        info = teacher.info()
        return {"tower": info.tower_digest, "text": info.text_digest, "both": info.digest}

    model = teacher._model
    for name, weights in model.named_parameters():
        before = digests()
        with torch.no_grad():
            weights.view(-1)[-1] += 1
        changed = {key for key, value in digests().items() if value != before[key]}
        if name.startswith("logit_"):  # of nothing that a cache holds
            assert not changed, name
        else:
            assert changed == {"tower" if name.startswith("visual.") else "text", "both"}, name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TeacherSpec("ViT-B-61", "random"), "unknown teacher 'ViT-B-61'"),
        (TeacherSpec("ViT-B-16", "no-such-tag"), "neither a file nor a weight tag"),
        (
            TeacherSpec("local-dir:/nowhere", None),
            "neither open_clip_config.json nor config.json is in",
        ),
        (TeacherSpec("convnext_large_d", "random"), "has a head that is not linear"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(spec, message):
    with pytest.raises(C2SError, match=message) as caught:
        load_teacher(spec)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_checkpoint(tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(C2SError, match="is no file of weights") as caught:
        load_teacher(TeacherSpec("ViT-B-32", str(file)))
    assert "\n" not in str(caught.value)


def test_random_weights_are_seeded(tiny_teacher, tiny_name):
    """Whatever was drawn before; and they are no weights of a file."""
    image = np.asarray(Image.new("RGB", (32, 32), (9, 99, 199)))[None]
    found = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        found.append(load_teacher(TeacherSpec(tiny_name, "random")).embed_images(image))
    assert torch.equal(*found)
    assert not torch.equal(
        found[0], load_teacher(TeacherSpec(tiny_teacher, None)).embed_images(image)
    )


def test_float32_on_a_gpu_is_float32(teacher, monkeypatch):
    """Not TensorFloat-32, and by an algorithm that repeats; afterwards all is as it was."""
    cudnn = torch.backends.cudnn

    def now():
        return cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic

    before = now()
    with teacher._arithmetic():
        assert now() == before
    monkeypatch.setattr(teacher, "device", torch.device("cuda"))
    with teacher._arithmetic():
        assert now() == (True, False, True)
    assert now() == before


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub that does not answer, and none of its files on this machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for module in (hub_module, clip_model, model_folder):
        monkeypatch.setattr(module, "hub_answers", lambda: False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "pretrained", "parts"),
    [
        (
            "ViT-B-16",
            "openai",
            (
                'hf download timm/vit_base_patch16_clip_224.openai --include "open_clip*"',
                "models--timm--vit_base_patch16_clip_224.openai",
                "--teacher ViT-B-16-quickgelu --pretrained open_clip_model.safetensors",
                "ViT-B-16.pt: --teacher ViT-B-16 --pretrained ViT-B-16.pt.",
            ),
        ),
        (
            "ViT-B-16",
            "laion2b_s34b_b88k",
            ("hf download laion/", "--teacher ViT-B-16 --pretrained open_clip_model.safetensors."),
        ),
        (
            "hf-hub:someone/model",
            None,
            ("hf download someone/model --include", "models--someone--model"),
        ),
        (
            "xlm-roberta-base-ViT-B-32",
            "laion5b_s13b_b90k",
            (
                'xlm-roberta-base --include "*.json" "*.txt" "*.model"; then copy models--laion--CLIP',
                "and models--xlm-roberta-base from its cache",
            ),
        ),
    ],
)
def test_weights_that_are_not_here_are_named_with_the_ways_to_them(no_hub, name, pretrained, parts):
    with pytest.raises(C2SError, match="not on this machine") as caught:
        load_teacher(TeacherSpec(name, pretrained))
    message = str(caught.value)
    assert "\n" not in message
    assert str(no_hub) in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["ViT-H-14-CLIPA", "hf-hub:someone/model"])
def test_a_tokenizer_that_is_not_here_is_named_with_the_way_to_it(no_hub, name, monkeypatch):
    repository = "bert-base-uncased"
    if name.startswith("hf-hub:"):
        config = {"vision_cfg": {}, "text_cfg": {"hf_tokenizer_name": repository}}
        monkeypatch.setattr(model_folder, "model_config", lambda name: config)
        monkeypatch.setattr(
            open_clip.factory, "_get_hf_config", lambda *a, **k: {"model_cfg": config}
        )
    with pytest.raises(C2SError, match=f"{repository} is not on this machine, and") as caught:
        model_folder.load_tokenizer(name)
    message = str(caught.value)
    assert "\n" not in message
    assert f'hf download {repository} --include "*.json" "*.txt" "*.model"; then copy' in message
    assert f"models--{repository}" in message
    assert str(no_hub) in message


@pytest.mark.slow
def test_weights_that_are_here_need_no_hub(no_hub, monkeypatch):
    """Where the message says that they are to be copied, and that open_clip finds them there."""
    repository = no_hub / "models--timm--vit_small_patch8.own"
    commit = "0" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    model = open_clip.create_model("ViT-S-32")
    save_file(dict(model.state_dict()), snapshot / "open_clip_model.safetensors")
    own = open_clip.pretrained._pcfg(hf_hub="timm/vit_small_patch8.own/")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-S-32", {"own": own})
    own = load_teacher(TeacherSpec("ViT-S-32", "own"))
    state = own._model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    words = ["a photo of a cat", "sky"]
    alone = load_text_encoder(TeacherSpec("ViT-S-32", "own"))
    assert torch.equal(alone.embed_text(words), own.text.embed_text(words))


def test_a_random_teacher_of_another_dense_size_has_the_same_weights():
    """But for the position embeddings, interpolated as open_clip interpolates those of a checkpoint."""
    teacher = load_teacher(TeacherSpec("ViT-S-32-alt", "random", dense_size=64))
    own, dense = teacher.tower.visual.state_dict(), teacher.dense_tower.visual.state_dict()
    assert dense.pop("positional_embedding").shape == (
        1 + 4,
        own.pop("positional_embedding").shape[1],
    )
    assert own.keys() == dense.keys()
    assert all(torch.equal(own[k], dense[k]) for k in own)


def test_another_dense_size_is_open_clips_own_model_of_that_size(tiny_teacher):
    teacher = load_teacher(TeacherSpec(tiny_teacher, None, dense_size=64))
    visual = open_clip.create_model(tiny_teacher, force_image_size=64).eval().visual
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    cls, _ = teacher.dense(pixels)
    with torch.inference_mode():
        torch.testing.assert_close(cls, visual(teacher.prepare(pixels)), rtol=0, atol=0)
    for name, value in visual.state_dict().items():
        assert torch.equal(value, teacher.dense_tower.visual.state_dict()[name]), name
