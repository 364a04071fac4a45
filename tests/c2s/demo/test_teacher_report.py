"""The shipped teacher, loaded as anybody would load it."""

from __future__ import annotations

import json

import numpy as np
import torch

from c2s.demo.teacher_report import dense_quality, region_accuracy
from c2s.shapes.defaults import TEACHER, TEACHER_FOLDER
from c2s.shapes.scenes import CLASSES, MIN_AREA, SIZE, render


def test_card_and_weights_are_shipped() -> None:
    card = json.loads((TEACHER_FOLDER / "card.json").read_text())
    assert card["samples"] > 0
    assert card["measured"]["region_top1"] > 80
    assert set(card["measured"]["by_class"]) == set(CLASSES)
    assert (TEACHER_FOLDER / "open_clip_model.safetensors").stat().st_size < 6_000_000


def test_plain_open_clip_names_masked_regions() -> None:
    """Zero-shot, unseen classes included, with nothing but open_clip's documented calls."""
    import open_clip

    model, preprocess = open_clip.create_model_from_pretrained(TEACHER)
    tokenizer = open_clip.get_tokenizer(TEACHER)
    from PIL import Image

    views, truth = [], []
    for index in range(40):
        scene = render("dev", index)
        for cls in np.unique(scene.labels):
            mask = scene.labels == cls
            if mask.sum() >= MIN_AREA * SIZE * SIZE:
                views.append(preprocess(Image.fromarray(scene.image * mask[..., None])))
                truth.append(int(cls))
    with torch.inference_mode():
        text = model.encode_text(tokenizer([f"a photo of a {c}" for c in CLASSES]), normalize=True)
        guess = (model.encode_image(torch.stack(views)) @ text.T).argmax(1)
    assert (guess == torch.tensor(truth)).float().mean() > 0.85


def test_report_on_a_few_scenes() -> None:
    measured = region_accuracy(TEACHER_FOLDER, scenes=25)
    assert measured["region_top1"] > 85
    dense = dense_quality(TEACHER_FOLDER, SIZE, scenes=15)
    for row in dense.values():
        assert 30 < row["oracle_unseen"] <= 100
        assert row["latents"] >= 1
