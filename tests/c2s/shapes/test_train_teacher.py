"""The teacher's training: tokenizer, masked views and loss against plain references."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from c2s.shapes import train_teacher
from c2s.shapes import web as web_module
from c2s.shapes.scenes import CLASSES, COLOURS, STUFF, render
from c2s.shapes.tokenizer import CONTEXT, vocabulary, write_tokenizer
from c2s.shapes.train_teacher import content_words, contrastive_loss, plain_attention
from c2s.shapes.web import Batches, Web, mirror


@pytest.fixture(scope="module")
def web() -> Web:
    images, labels, colours, captions = web_module._render_range((0, 60))
    return Web(torch.from_numpy(images), torch.from_numpy(labels), colours, captions)


def test_vocabulary_covers_every_caption_and_ends_with_eot() -> None:
    vocab = vocabulary()
    assert vocab["[PAD]"] == 0
    assert max(vocab, key=vocab.__getitem__) == "[EOT]"
    for index in range(200):
        assert set(render("web", index).caption.split()) <= set(vocab)


def test_tokenizer_as_open_clip_loads_it(tmp_path: Path) -> None:
    import open_clip

    train_teacher.save(torch.nn.Linear(1, 1), tmp_path, {})
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


def test_masked_views_show_one_class_and_name_it(web: Web) -> None:
    batches = Batches(web, 64, seed=0)
    for _ in range(3):
        images, captions = batches._masked(64)
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


def _loss_by_hand(image: Tensor, text: Tensor, captions: list[str], scale: float) -> float:
    vocabulary = {*COLOURS, *CLASSES}
    words = [set(c.split()) & vocabulary for c in captions]
    n, total = len(captions), 0.0
    for queries, keys in ((image, text), (text, image)):
        for i in range(n):
            kept = [j for j in range(n) if not (words[i] < words[j] or words[j] < words[i])]
            logits = {j: scale * float(queries[i] @ keys[j]) for j in kept}
            log_sum = math.log(sum(math.exp(v) for v in logits.values()))
            positives = [j for j in kept if words[j] == words[i]]
            total -= sum(logits[j] - log_sum for j in positives) / len(positives)
    return total / (2 * n)


def test_loss_against_loops() -> None:
    captions = [
        "a photo of a star", "a drawing of a star", "a red star on dots", "a circle",
        "a photo of a red star", "dots", "an arrow and a circle on waves",
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    image, text = (
        torch.nn.functional.normalize(torch.randn(len(captions), 8, generator=generator), dim=1)
        for _ in range(2)
    )
    got = contrastive_loss(image, text, content_words(captions), torch.tensor(7.0))
    assert got.item() == pytest.approx(_loss_by_hand(image, text, captions, 7.0), rel=1e-5)


def test_plain_attention_is_attention_and_is_undone() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind(0)
    mask = torch.full((6, 6), -torch.inf).triu(1)
    fused = torch.nn.functional.scaled_dot_product_attention
    expected = fused(q, k, v, attn_mask=mask)
    with plain_attention():
        got = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(got, expected)
    assert torch.nn.functional.scaled_dot_product_attention is fused


@pytest.mark.slow
def test_a_short_run_writes_what_open_clip_loads(tmp_path: Path) -> None:
    import open_clip

    train_teacher.train(tmp_path, seed=0, samples=48, scenes=64, batch_size=16, lr=1e-3)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["samples"] == 48
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    larger = open_clip.create_model(f"local-dir:{tmp_path}", force_image_size=128)
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
    assert larger.encode_image(torch.zeros(1, 3, 128, 128)).shape == (1, 128)
