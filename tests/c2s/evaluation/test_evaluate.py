"""Evaluation of a run: JSON keys, class check, table."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_cache import tiny_manifest
from torch import nn

from c2s.evaluation.confusion import METRICS, harmonic_mean
from c2s.evaluation.evaluate import check_classes, evaluate, predictor
from c2s.evaluation.inference import ScoresError
from c2s.evaluation.table import result_table
from c2s.evaluation.vocabulary import foreign_vocabulary, stored_embeddings
from c2s.methods.clip_to_seg.paper import DATASETS, INDUCTIVE, TRANSDUCTIVE, paper_row
from c2s.runs.config import load_config
from c2s.runs.folder import RunInfo
from c2s.runs.run import Run
from c2s.students.base import FeatureStudent
from c2s.text import cached_text
from c2s_cache import open_cache
from c2s_cache.errors import ConfigError, DataError

CLASSES = ("red", "green", "blue", "grey")


class Hues(FeatureStudent):
    """Features: which channel is strongest. Never finds grey."""

    def forward(self, images):
        return nn.functional.one_hot(images.argmax(1), 4).permute(0, 3, 1, 2).float()


@dataclass
class Item:
    seed: int

    @property
    def id(self):
        return f"item {self.seed}"

    def read(self):
        labels = np.random.default_rng(self.seed).integers(0, 3, (4, 4)).astype(np.uint8)
        labels = labels.repeat(8, 0).repeat(8, 1)
        image = np.zeros((32, 32, 3), np.uint8)
        np.put_along_axis(image, labels[..., None].astype(np.int64), 255, axis=2)
        labels[:2] = 255
        return image, labels


class Shuffled(Item):
    """The same image; its labels are ids of (blue, green, ...), everything else ignored."""

    def read(self):
        image, labels = super().read()
        table = np.full(256, 255, np.uint8)
        table[2], table[1] = 0, 1
        return image, table[labels]


@pytest.fixture
def opened(tmp_path):
    info = RunInfo(
        dataset="hues",
        classes=CLASSES,
        unseen=(2, 3),
        view_size=32,
        teacher=tiny_manifest().teacher,
        fingerprints={},
        versions={},
    )
    config = load_config(cache=tmp_path / "x.zarr")
    return Run(tmp_path, config, info, 1, True, np.eye(4, dtype=np.float32), Hues().eval())


def score(run, items, words=None, classifier=None, **options):
    """A run's result over the classes of a vocabulary, or its own."""
    words = words or run.vocabulary
    model = predictor(run, words, device="cpu", classifier=classifier)
    return evaluate(model, items, words, **options)


def alone(names):
    """Classes of one name each."""
    return tuple((name,) for name in names)


def test_result_has_the_promised_keys(opened):
    moved = []
    result = score(opened, [Item(0), Item(1)], advance=moved.append)
    facts = json.loads(json.dumps(result.as_dict()))
    assert [facts[name] for name in METRICS] == [100.0] * 6
    assert facts["classes"][2] == {"id": 2, "name": "blue", "iou": 100.0, "unseen": True}
    assert facts["classes"][3]["iou"] is None
    assert moved == [1, 1]


def test_seen_offset_shifts_towards_unseen_classes(opened):
    result = score(opened, [Item(0)], seen_offsets=[2.0])
    assert result.metrics.sIoU == 0
    assert result.metrics.uIoU > 0


def test_a_classifier_takes_the_place_of_the_cosines(opened):
    class Red(nn.Module):
        def forward(self, images):
            return torch.tensor([1.0, 0, 0, 0])[None, :, None, None].expand(1, 4, 8, 8)

    metrics = score(opened, [Item(0)], classifier=Red()).metrics
    assert metrics.iou[0] > 0
    assert metrics.iou[1] == metrics.iou[2] == 0


def noisy(opened):
    """The same run with a student that is often wrong, so that offsets matter."""

    class Noisy(Hues):
        def forward(self, images):
            noise = torch.randn(
                images.shape[0], 4, *images.shape[2:], generator=torch.Generator().manual_seed(0)
            )
            return super().forward(images) + noise

    return dataclasses.replace(opened, student=Noisy().eval())


def test_a_sweep_gives_at_every_offset_what_a_run_of_its_own_gives(opened):
    run, items = noisy(opened), [Item(0), Item(1), Item(2)]
    offsets = [0.1, 0.0, 0.7]
    swept = score(run, items, seen_offsets=offsets, ignored=[1])
    alone = [score(run, items, seen_offsets=[o], ignored=[1]) for o in offsets]
    assert list(swept.sweep) == offsets
    for offset, single in zip(offsets, alone, strict=True):
        assert {k: str(v) for k, v in vars(swept.sweep[offset]).items()} == {
            k: str(v) for k, v in vars(single.metrics).items()
        }
    assert len({m.hIoU for m in swept.sweep.values()}) == 3
    facts = swept.as_dict()
    first = alone[0].as_dict()
    same = (*METRICS, "classes", "images")
    assert {k: facts[k] for k in same} == {k: first[k] for k in same}
    assert "sweep" not in first
    assert [row["seen_offset"] for row in facts["sweep"]] == offsets
    assert [row["hIoU"] for row in facts["sweep"]] == [a.as_dict()["hIoU"] for a in alone]
    head, *rows = (line.split(",") for line in swept.as_csv().splitlines())
    assert head == ["id", "name", "iou", "unseen", "iou@0", "iou@0.7"]
    assert [float(rows[4 + 2][i]) for i in (2, 4, 5)] == [a.as_dict()["hIoU"] for a in alone]
    ious = [str(a.as_dict()["classes"][0]["iou"]) for a in alone]
    assert rows[0] == ["0", "red", ious[0], "False", *ious[1:]]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(result_table(swept))
    assert "offset 0.7" in captured.get()


def test_images_are_read_in_order_and_an_unreadable_one_is_not_passed_over(opened):
    class Broken(Item):
        def read(self):
            raise DataError("cut short")

    moved = []
    with pytest.raises(DataError, match="cut short"):
        score(opened, [Item(0), Broken(1), Item(2)], advance=moved.append)
    assert moved == [1]


def test_what_is_advised_is_not_already_so(opened):
    assert predictor(opened, device="cpu").remedy.endswith("with a lower --set lr.")
    config = opened.config.model_copy(update={"precision": "bf16-mixed"})
    run = dataclasses.replace(opened, config=config)
    advised = predictor(run, device="cpu").remedy
    assert advised.endswith("with a lower --set lr or precision=32-true.")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_and_the_image_named(opened, value):
    class Broken(Hues):
        def forward(self, images):
            features = super().forward(images)
            features[..., -1, -1] = torch.where(images[0, 0, -1, -1] > 1, value, 1.0)
            return features

    run = dataclasses.replace(opened, student=Broken().eval())
    colours = [Item(seed).read()[0][-1, -1].argmax() for seed in range(8)]
    first_red = colours.index(0)
    assert first_red > 0
    with pytest.raises(ScoresError, match=rf"item {first_red} are not finite"):
        score(run, [Item(seed) for seed in range(8)])


def test_no_image_is_an_error(opened):
    with pytest.raises(ConfigError, match=r"no image"):
        score(opened, [])


def test_other_classes_are_refused(opened):
    check_classes(opened, CLASSES, "hues")
    with pytest.raises(ConfigError, match=r"Class 1 of other is 'pink'.*'green'"):
        check_classes(opened, ("red", "pink", "blue", "grey"), "other")
    with pytest.raises(ConfigError, match=r"3 classes"):
        check_classes(opened, CLASSES[:3], "other")


def test_csv_and_table(opened):
    result = score(opened, [Item(0)])
    assert result.as_csv().splitlines() == [
        "id,name,iou,unseen",
        "0,red,100.0,False",
        "1,green,100.0,False",
        "2,blue,100.0,True",
        "3,grey,,True",
        ",sIoU,100.0,",
        ",uIoU,100.0,",
        ",hIoU,100.0,",
        ",pAcc,100.0,",
        ",mIoU,100.0,",
        ",mAcc,100.0,",
    ]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(
            result_table(result, "transductive", {"hIoU": 48.5, "sIoU": 43.7, "uIoU": 54.5})
        )
    text = captured.get()
    assert "unseen" in text
    assert "100.0" in text
    assert "paper, transductive" in text
    assert "54.5" in text


def test_an_ignored_class_is_neither_predicted_nor_counted(opened):
    free = score(opened, [Item(0)]).metrics
    held = score(opened, [Item(0)], ignored=[1]).metrics
    assert free.iou[1] == 1.0
    assert np.isnan(held.iou[1])
    assert held.iou[0] == held.iou[2] == held.pAcc == 1.0


def test_another_vocabulary_marks_the_classes_that_training_annotated(opened):
    names = ("blue", "green", "violet")
    words = foreign_vocabulary(opened, alone(names), 3.0 * np.eye(4)[[2, 1, 3]])
    assert words.unseen == (0, 2)  # blue is unseen in training, violet unknown to it
    np.testing.assert_array_equal(words.embeddings, np.eye(4, dtype=np.float32)[[2, 1, 3]])
    result = score(opened, [Shuffled(0)], words=words)
    facts = result.as_dict()
    assert [c["name"] for c in facts["classes"]] == list(names)
    assert (facts["classes"][0]["iou"], facts["classes"][1]["iou"]) == (100.0, 100.0)


def test_either_spelling_of_a_class_counts(opened):
    info = opened.info.model_copy(update={"prompts": ("red", "bright green", "blue", "grey")})
    spoken = dataclasses.replace(opened, info=info)
    text = np.eye(4)[:3]
    assert foreign_vocabulary(spoken, alone(("red", "bright green", "x")), text).unseen == (2,)
    assert foreign_vocabulary(
        spoken, alone(("red", "blue", "green")), text, ("a", "b", "c")
    ).unseen == (1,)


def test_the_offset_is_taken_from_the_foreign_seen_classes(opened):
    words = foreign_vocabulary(opened, alone(("blue", "green")), np.eye(4)[[2, 1]])
    result = score(opened, [Shuffled(0)], seen_offsets=[2.0], words=words)
    assert result.metrics.iou[1] == 0


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.ones((3, 4)), r"shape \[3, 4\], expected \[2, 4\]"),
        (np.ones((2, 5)), r"expected \[2, 4\]"),
        (np.zeros((2, 4)), "zero or not finite"),
        (np.full((2, 4), np.nan), "zero or not finite"),
    ],
)
def test_wrong_text_embeddings_are_refused(opened, embeddings, message):
    with pytest.raises(ConfigError, match=message):
        foreign_vocabulary(opened, alone(("blue", "green")), embeddings)


def test_text_embeddings_from_a_file_or_a_cache(opened, tmp_path, tiny_cache):
    np.save(tmp_path / "text.npy", np.eye(4))
    got = stored_embeddings(tmp_path / "text.npy", opened, CLASSES, "hues")
    np.testing.assert_array_equal(got, np.eye(4))
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    with pytest.raises(ConfigError, match=r"bad.npy cannot be read"):
        stored_embeddings(tmp_path / "bad.npy", opened, CLASSES, "hues")
    with pytest.raises(ConfigError, match=r"classes of tiny, not those of hues"):
        stored_embeddings(tiny_cache, opened, CLASSES, "hues")
    cache = open_cache(tiny_cache)
    teacher = cache.manifest.teacher

    def learnt_from(**changes):
        other = teacher.model_copy(update=changes)
        info = opened.info.model_copy(update={"teacher": other})
        return dataclasses.replace(opened, info=info)

    other = learnt_from(text_digest="2" * 64)
    with pytest.raises(ConfigError, match=r"whose weights or activation are not those"):
        stored_embeddings(tiny_cache, other, cache.manifest.classes, "tiny")
    own = learnt_from(name="x", pretrained="x", digest="2" * 64)  # of another image tower
    found = stored_embeddings(tiny_cache, own, cache.manifest.classes, "tiny")
    np.testing.assert_array_equal(found, cached_text(cache, "all").embeddings)


def test_paper_rows_keep_their_harmonic_mean():
    for table, transductive in ((INDUCTIVE, False), (TRANSDUCTIVE, True)):
        for student in table:
            for dataset in DATASETS:
                row = paper_row(dataset, student, transductive)
                assert row is not None
                want = harmonic_mean(row["sIoU"], row["uIoU"])
                assert row["hIoU"] == pytest.approx(want, abs=0.16)
    assert paper_row("shapes", "segformer-b4", False) is None
    assert paper_row("voc", "shapes-net", False) is None
