"""The shipped teacher, loaded as anybody would load it."""

from __future__ import annotations

import json

import numpy as np
import torch

from c2s.demo.teacher_naming import (
    by_words,
    cells,
    dense_iou,
    named,
    on_black,
    on_grey,
    regions,
    unmasked,
)
from c2s.demo.teacher_report import dense_quality, region_accuracy
from c2s.shapes.defaults import TEACHER, TEACHER_FOLDER
from c2s.shapes.scenes import CLASSES, MIN_AREA, SIZE, render
from c2s.testing.shapes import teacher
from c2s_pipeline.teachers.templates import SINGLE
from c2s_pipeline.teachers.text import class_embeddings


def test_card_and_weights_are_shipped() -> None:
    card = json.loads((TEACHER_FOLDER / "card.json").read_text())
    assert card["stages"][0]["stage"] == "regions"
    assert all(stage["samples"] > 0 for stage in card["stages"])
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


def test_what_is_shown_of_a_region() -> None:
    scene = render("dev", 3)
    (view, cls), *_ = regions(on_black, 1, split="val")
    assert (render("val", 0).labels == cls).sum() >= MIN_AREA * SIZE * SIZE
    assert (view == 0).all(-1).any()
    mask = scene.labels == scene.labels[0, 0]
    grey, plain = on_grey(scene.image, mask), unmasked(scene.image, mask)
    same = (grey == plain).all(-1)
    assert 0 < same.mean() < 1
    assert np.median(grey[~same]) == 128


def test_cells_are_named_by_most_of_their_pixels() -> None:
    found = list(cells(2, 3))
    assert len(found) == 12
    labels = render("dev", 1).labels
    expected = [
        np.bincount(labels[y : y + 32, x : x + 32].ravel()).argmax()
        for y in (0, 32)
        for x in (0, 32)
    ]
    assert [cls for _, cls in found[4:8]] == expected


def test_naming_of_a_few_scenes() -> None:
    """The figures are of one rule: cosines of tokens with the texts. Regions on black are what every stage knows."""
    text = class_embeddings(teacher().text, CLASSES, SINGLE)
    assert named(teacher(), text, regions(on_black, 20))["mean"] > 85
    words = by_words(teacher(), 20)
    assert words["names"] > 85
    assert words["by_word"].keys() >= {*CLASSES, "lune", "sickle"}
    dense = dense_iou(teacher(), 10)
    assert 0 <= dense["things"] <= 100
