"""The teacher's training: tokenizer, masked views and attention against plain references."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from c2s.shapes import train_teacher
from c2s.shapes import web as web_module
from c2s.shapes.crops import boxes_around, cut
from c2s.shapes.scenes import CLASSES, COLOURS, STUFF, render
from c2s.shapes.tokenizer import CONTEXT, vocabulary, write_tokenizer
from c2s.shapes.train_teacher import plain_attention
from c2s.shapes.web import Batches, Web, mirror
from c2s.shapes.words import CLASS_OF, TIED, choose_word, reworded

SCENES = train_teacher.STAGES["scenes"]


@pytest.fixture(scope="module")
def web() -> Web:
    images, labels, colours, captions = web_module._render_range("web", (0, 60))
    return Web(torch.from_numpy(images), torch.from_numpy(labels), colours, captions)


def test_vocabulary_covers_every_caption_and_ends_with_eot() -> None:
    vocab = vocabulary()
    assert vocab["[PAD]"] == 0
    assert max(vocab, key=vocab.__getitem__) == "[EOT]"
    for index in range(200):
        assert set(render("web", index).caption.split()) <= set(vocab)


def test_tokenizer_as_open_clip_loads_it(tmp_path: Path) -> None:
    import open_clip

    train_teacher.save(torch.nn.Linear(1, 1), tmp_path, train_teacher.model_cfg(SCENES))
    write_tokenizer(tmp_path)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    vocab = vocabulary()
    tokens = tokenizer(["a photo of a zebra", "A photo of a STAR."])
    assert tokens.shape == (2, CONTEXT)
    words = ["[SOT]", "a", "photo", "of", "a", "[UNK]", "[EOT]"]
    assert tokens[0].tolist() == [vocab[w] for w in words] + [0] * (CONTEXT - len(words))
    words = ["[SOT]", "a", "photo", "of", "a", "star", ".", "[EOT]"]
    assert tokens[1].tolist() == [vocab[w] for w in words] + [0] * (CONTEXT - len(words))
    # Pooling happens at the largest id: it must be the end mark also when a caption is too long.
    assert tokenizer(["a star and " * 20])[0].argmax() == CONTEXT - 1


@pytest.mark.slow
def test_masked_views_show_one_class_and_name_it(web: Web) -> None:
    batches = Batches(web, train_teacher.STAGES["regions"].views, 64, seed=0)
    for _ in range(3):
        images, _, captions = batches._masked(64)
        for view, caption in zip(images, captions, strict=True):
            named = [word for word in caption.split() if word in CLASSES]
            assert len(named) == 1
            shown = (view > 0).any(-1)
            assert 25 <= shown.sum() < 64 * 64
            # What is shown comes unchanged from a scene that has the class there.
            rows = [
                r
                for r in range(60)
                if torch.equal(web.images[r][shown], view[shown]) or _almost(web, r, view, shown)
            ]
            assert len(rows) == 1
            of_class = (web.labels[rows[0]] == CLASSES.index(named[0])) & shown
            assert of_class.sum() > 0.3 * shown.sum()
            colours = [word for word in caption.split() if word in COLOURS]
            if colours:
                known = int(web.colours[rows[0], CLASSES.index(named[0])])
                assert named[0] not in STUFF
                assert colours == [list(COLOURS)[known]]


def _almost(web: Web, row: int, view: Tensor, shown: Tensor) -> bool:
    return bool((web.images[row][shown] == view[shown]).float().mean() > 0.99)


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.randint(256, (200, 5, 5, 3), dtype=torch.uint8)
    mirrored = mirror(images, torch.Generator().manual_seed(0))
    same = (mirrored == images).flatten(1).all(1)
    assert 70 < same.sum() < 130
    for before, after in zip(images[~same].numpy(), mirrored[~same].numpy(), strict=True):
        np.testing.assert_array_equal(after, before[:, ::-1])


def test_plain_attention_is_attention_and_is_undone() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind(0)
    mask = torch.full((6, 6), -torch.inf).triu(1)
    fused = torch.nn.functional.scaled_dot_product_attention
    expected = fused(q, k, v, attn_mask=mask)
    with plain_attention():
        got = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(got, expected)
    assert torch.nn.functional.scaled_dot_product_attention is fused


def test_every_view_of_the_second_stage_is_captioned_with_what_it_shows(web: Web) -> None:
    """Windows hold nothing but their patches, and the class that is named alone covers most of what is there."""
    batch = next(iter(Batches(web, SCENES.views, 60, seed=1)))
    assert len(batch.images) == len(batch.captions) == 60
    assert batch.denied.shape == (60, len(TIED))
    whole = 60 - 15 - 6 - 9
    assert len(batch.windows) == len(batch.window_captions) == 6 * whole
    assert batch.owners.tolist() == [row for row in range(whole) for _ in range(6)]
    torch.testing.assert_close(batch.windows.sum(1), torch.ones(6 * whole))
    known = {*vocabulary()}
    for caption in [*batch.captions, *batch.window_captions]:
        words = caption.split()
        assert set(words) <= known
        assert any(word in CLASS_OF for word in words)
        assert len(words) + 2 <= CONTEXT
    shown = batch.images[whole : whole + 15]
    assert (shown == 0).all(-1).flatten(1).any(1).all()  # black around the first of the parts
    grey = (batch.images[whole + 15 : whole + 21] == 128).all(-1).flatten(1).float().mean(1)
    assert (grey > 0.02).sum() >= 4


def test_windows_are_mirrored_with_their_scenes(web: Web) -> None:
    views = replace(SCENES.views, masked=0, grey=0, crops=0, windows=8, synonyms=False)
    batch = next(iter(Batches(web, views, 30, seed=2)))
    by_image = {image.numpy().tobytes(): labels for image, labels in _both_ways(web)}
    for window, owner, caption in zip(
        batch.windows, batch.owners, batch.window_captions, strict=True
    ):
        labels = by_image[batch.images[owner].numpy().tobytes()]
        cells = labels.unflatten(0, (8, 8)).unflatten(2, (8, 8)).transpose(1, 2).flatten(0, 1)
        inside = cells[window > 0].flatten()
        counts = torch.bincount(inside.long(), minlength=len(CLASSES))
        named = {CLASS_OF[word] for word in caption.split() if word in CLASS_OF}
        assert int(counts.argmax()) in named
        assert len(named) == 1 or min(counts[list(named)]) >= 0.2 * len(inside)


def test_windows_around_things_hold_some_of_a_thing(web: Web) -> None:
    views = replace(SCENES.views, masked=0, grey=0, crops=0, windows=8, synonyms=False)
    by_image = {image.numpy().tobytes(): labels for image, labels in _both_ways(web)}
    shares = {}
    for around in (0.0, 1.0):
        batch = next(iter(Batches(web, replace(views, around=around), 30, seed=3)))
        found = []
        for window, owner in zip(batch.windows, batch.owners, strict=True):
            things = by_image[batch.images[owner].numpy().tobytes()] < len(CLASSES) - len(STUFF)
            cells = things.unflatten(0, (8, 8)).unflatten(2, (8, 8)).transpose(1, 2).flatten(0, 1)
            found.append(cells[window > 0].float().mean().item())
        shares[around] = np.array(found)
    assert shares[1.0].min() > 0
    assert (shares[0.0] == 0).mean() > 0.2
    assert shares[1.0].mean() > 1.5 * shares[0.0].mean()


def _both_ways(web: Web) -> list[tuple[Tensor, Tensor]]:
    pairs = list(zip(web.images, web.labels, strict=True))
    return pairs + [(image.flip(1), labels.flip(1)) for image, labels in pairs]


def test_tied_words_are_said_of_their_colours_alone() -> None:
    rng = np.random.default_rng(0)
    said = {
        c: {choose_word(rng, CLASSES.index("crescent"), c) for _ in range(200)} for c in COLOURS
    }
    for colour, words in said.items():
        assert words - {"moon"} == {"crescent", "lune", "sickle"}
        assert ("moon" in words) == (colour in ("white", "yellow"))
    assert "moon" not in {choose_word(rng, CLASSES.index("crescent"), None) for _ in range(200)}


def test_a_tied_word_is_denied_to_things_of_a_known_other_colour() -> None:
    colours = np.full((3, len(CLASSES)), -1, np.int8)
    crescent = CLASSES.index("crescent")
    colours[1, crescent], colours[2, crescent] = (list(COLOURS).index(c) for c in ("red", "white"))
    found = web_module.denied(colours)
    assert found.sum() == found[1, list(TIED).index("moon")] == 1


def test_other_words_come_with_their_article() -> None:
    rng, colours = np.random.default_rng(1), np.full(len(CLASSES), -1, np.int8)
    for _ in range(300):
        words = reworded(rng, "a photo of an arrow and a star on dots", colours).split()
        assert [CLASS_OF[w] for w in words if w in CLASS_OF] == [8, 3, 11]
        for before, word in pairwise(words):
            if before in ("a", "an"):
                assert (before == "an") == (word[0] in "aeiou")


def test_a_crop_is_what_pillow_cuts() -> None:
    """The inner pixels: at the borders Pillow's kernel ends with the crop, ours with the image."""
    image = render("dev", 3).image
    found = cut(torch.from_numpy(image)[None], torch.tensor([[16.0, 24.0, 48.0, 56.0]]))[0].numpy()
    theirs = Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC, box=(16, 24, 48, 56))
    gap = np.abs(found.astype(int) - np.asarray(theirs).astype(int))[8:-8, 8:-8]
    assert gap.mean() < 3  # their kernels differ in one constant: -0.75 and -0.5
    whole = torch.from_numpy(image)[None]
    assert torch.equal(cut(whole, torch.tensor([[0.0, 0.0, 64.0, 64.0]])), whole)


def test_boxes_are_tight() -> None:
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 5:9, 20:50] = True
    mask[1, 63, 0] = True
    assert boxes_around(mask).tolist() == [[20, 5, 50, 9], [0, 63, 1, 64]]


def test_a_start_brings_its_words_to_a_larger_vocabulary(tmp_path: Path) -> None:
    import open_clip

    first = train_teacher.STAGES["regions"]
    config = train_teacher.model_cfg(first)
    old = open_clip.model.CLIP(**config)
    train_teacher.save(old, tmp_path, config)
    write_tokenizer(tmp_path, synonyms=False)
    before = torch.rand(len(vocabulary()), 128)
    new = train_teacher.start_weights(tmp_path, True, before)
    words, known = vocabulary(), vocabulary(synonyms=False)
    for word in words:
        expected = (
            old.token_embedding.weight[known[word]].half().float()
            if word in known
            else before[words[word]]
        )
        assert torch.equal(new["token_embedding.weight"][words[word]], expected)
    assert torch.equal(new["visual.proj"], old.visual.proj.half().float())


def test_a_start_that_is_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--start", str(tmp_path / "none")]
    monkeypatch.setattr("sys.argv", ["train_teacher", *arguments])
    with pytest.raises(SystemExit) as stop:
        train_teacher.main()
    assert stop.value.code == 1
    assert (
        capsys.readouterr().err == f"error: there is no teacher in {tmp_path}/none to begin with.\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_broken_off_begins_as_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_teacher, "LOG_EVERY", 1)
    stage = replace(train_teacher.STAGES["regions"], scenes=64, samples=6 * 8)
    whole = train_teacher.train(tmp_path / "whole", stage, 0, 8, None)
    assert len(whole) == 6
    assert train_teacher.train(tmp_path / "part", stage, 0, 8, None, 3) == whole[:3]
    # A shorter schedule is another one.
    shorter = train_teacher.train(tmp_path / "other", replace(stage, samples=3 * 8), 0, 8, None)
    assert shorter != whole[:3]


@pytest.mark.slow
def test_short_runs_write_what_open_clip_loads_and_say_where_they_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    short = {name: replace(s, scenes=64) for name, s in train_teacher.STAGES.items()}
    short["scenes"] = replace(short["scenes"], lr=0.0)  # so that it ends where it begins
    monkeypatch.setattr(train_teacher, "STAGES", short)
    first, second = tmp_path / "first", tmp_path / "second"
    for out, more in ((first, ()), (second, ("--stage", "scenes", "--start", str(first)))):
        arguments = ["--out", str(out), "--samples", "48", "--batch-size", "16", *more]
        monkeypatch.setattr("sys.argv", ["train_teacher", *arguments])
        train_teacher.main()
    stages = json.loads((second / "card.json").read_text())["stages"]
    assert [(s["stage"], s["samples"], len(s["losses"])) for s in stages] == [
        ("regions", 48, 1),
        ("scenes", 48, 1),
    ]
    assert str(first) in stages[1]["command"]
    begun, kept = (load_file(out / train_teacher.WEIGHTS) for out in (first, second))
    words = "token_embedding.weight"
    assert all(torch.equal(kept[k], v) for k, v in begun.items() if k != words)
    assert torch.equal(kept[words][: len(begun[words]) - 1], begun[words][:-1])
    model = open_clip.create_model(f"local-dir:{second}")
    larger = open_clip.create_model(f"local-dir:{second}", force_image_size=128)
    assert model.visual.pool_type == "avg"
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
    assert larger.encode_image(torch.zeros(1, 3, 128, 128)).shape == (1, 128)
