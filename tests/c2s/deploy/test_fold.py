"""A folded student is the stock model, and says what the cosines say at every position."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from c2s.deploy import SegmentationModel, fold_run
from c2s.deploy.fold import fold_classifier, run_scores, write_model
from c2s.deploy.info import ModelError
from c2s.evaluation.classifier import Classifier
from c2s.evaluation.vocabulary import foreign_vocabulary
from c2s.students import create
from c2s.students.base import parameter_count
from c2s_cache.ownership import NotOurs


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_a_logit_is_the_cosine_times_the_norm_of_the_feature(opened, images):
    folded = fold_run(opened)
    features = opened.student(images)
    cosines = Classifier(opened.student, torch.from_numpy(opened.embeddings))(images)
    logits = folded(images)
    assert logits.shape == (3, 6, *features.shape[2:])
    torch.testing.assert_close(logits, cosines * features.norm(dim=1, keepdim=True))
    assert torch.equal(logits.argmax(1), cosines.argmax(1))
    assert not torch.equal(logits.argmax(1), torch.zeros_like(logits.argmax(1)))


def test_a_folded_model_of_another_library_is_that_librarys_own(tmp_path, images):
    """Transformers' SegFormer takes the folded weights and gives the same logits."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    SegformerConfig(**sizes).save_pretrained(tmp_path / "hf")
    student = create(f"hf:{tmp_path / 'hf'}", 16).eval()
    state = fold_classifier(student.state_dict(), student.classifier, torch.eye(5, 16))
    stock = SegformerForSemanticSegmentation(SegformerConfig(**sizes, num_labels=5)).eval()
    stock.load_state_dict({k.removeprefix("model."): v for k, v in state.items()})
    folded = create(f"hf:{tmp_path / 'hf'}", 5).eval()
    folded.load_state_dict(state)
    with torch.inference_mode():
        logits = stock(images).logits
        torch.testing.assert_close(logits, student(images)[:, :5])
        torch.testing.assert_close(folded(images), logits)
    assert parameter_count(folded.parameters()) == parameter_count(stock.parameters())


@pytest.mark.parametrize("name", ["segnext-t", "setr-b", "vit-b", "segformer-b0", "shapes-net"])
def test_every_student_folds_into_itself_with_as_many_outputs(name):
    with torch.device("meta"):
        wide, narrow = create(name, 16, "random"), create(name, 3, "random")
        state = fold_classifier(wide.state_dict(), wide.classifier, torch.zeros(3, 16))
    shapes = {k: v.shape for k, v in narrow.state_dict().items()}
    assert {k: v.shape for k, v in state.items()} == shapes
    assert {k: v.shape for k, v in wide.state_dict().items()} != shapes


@given(
    shape=st.sampled_from([(), (1, 1), (3, 3), (1, 5)]),
    bias=st.booleans(),
    classes=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_last_layer_folds(shape, bias, classes, seed):
    torch.manual_seed(seed)
    layer = nn.Conv2d(5, 7, shape, bias=bias) if shape else nn.Linear(5, 7, bias=bias)
    model = nn.ModuleDict({"head": layer, "rest": nn.Linear(2, 2)})
    embeddings = torch.randn(classes, 7)
    state = fold_classifier(model.state_dict(), "head", embeddings)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items() if "rest" in k)
    x = torch.randn(2, 5, 6, 8) if shape else torch.randn(4, 5)
    expected = torch.einsum("kd,bd...->bk...", embeddings, layer(x))
    got = torch.func.functional_call(layer, {k[5:]: v for k, v in state.items() if "head" in k}, x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_other_classes_are_folded_in_their_order(opened, images):
    rows = opened.embeddings[[3, 0]]
    folded = fold_run(opened, foreign_vocabulary(opened, (("cow",), ("sky",)), rows))
    assert (folded.config.classes, folded.config.unseen) == (("cow", "sky"), (0,))
    with torch.inference_mode():
        both, every = folded(images), fold_run(opened)(images)
    torch.testing.assert_close(both, every[:, [3, 0]])


def test_config_says_where_the_model_is_from(opened):
    info = fold_run(opened).config
    assert (info.student, info.dataset, info.iterations) == (opened.config.student, "tiny", 2)
    assert (info.crop, info.unseen, info.transductive) == (32, (3, 5), False)
    known = {"name": "random", "pretrained": None, "digest": "0" * 64, "activation": "gelu"}
    assert info.teacher == known
    assert (info.backbone, info.license) == (None, "apache-2.0")
    assert info.versions.keys() >= {"c2s", "torch"}


def test_weights_of_others_do_not_become_apache(opened):
    object.__setattr__(
        opened, "config", opened.config.model_copy(update={"weights": "nvidia/mit-b0"})
    )
    assert fold_run(opened).config.license == "other"
    assert fold_run(opened, license="cc-by-4.0").config.license == "cc-by-4.0"


def test_scores_are_those_that_eval_left_on_these_classes(opened, facts, tmp_path):
    names = [{"name": n} for n in opened.info.classes]
    assert run_scores(tmp_path, opened.info.classes) == ()
    (tmp_path / "eval-a.json").write_text(json.dumps({**facts, "classes": names}))
    (tmp_path / "eval-b.json").write_text(json.dumps({**facts, "classes": names[1:]}))
    (found,) = run_scores(tmp_path, opened.info.classes)
    assert found.model_dump() == facts
    (tmp_path / "eval-c.json").write_text("{}")
    with pytest.raises(ModelError, match=r"eval-c.json is no result of c2s eval"):
        run_scores(tmp_path, opened.info.classes)


def test_a_folder_is_replaced_only_if_asked_and_only_if_it_is_a_model(opened, tmp_path):
    out = tmp_path / "deep" / "model"
    cut_short = out.parent / ".model.new"
    write_model(fold_run(opened), cut_short)
    (cut_short / "README.md").write_text("of another model")
    write_model(fold_run(opened), out)
    assert "of another model" not in (out / "README.md").read_text()
    assert sorted(f.name for f in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    before = load_file(out / "model.safetensors")
    rows = foreign_vocabulary(opened, (("a",), ("b",)), np.eye(2, 16))
    with pytest.raises(ModelError, match=r"exists.*--overwrite"):
        write_model(fold_run(opened, rows), out)
    assert load_file(out / "model.safetensors").keys() == before.keys()
    write_model(fold_run(opened, rows), out, overwrite=True)
    assert SegmentationModel.from_pretrained(out).config.classes == ("a", "b")
    assert [f.name for f in out.parent.iterdir()] == ["model"]
    (out / "config.json").write_text('{"model_type": "another library\'s"}')
    (out.parent / "a file").write_text("a letter")
    (out.parent / "link").symlink_to(out.parent)
    for foreign in ("model", "a file", "link", "."):
        with pytest.raises(NotOurs, match=r"no folded model, and is left as it is"):
            write_model(fold_run(opened), out.parent / foreign, overwrite=True)
    assert (out / "model.safetensors").is_file()
    assert (out.parent / "a file").read_text() == "a letter"


def test_one_process_writes_a_model(opened, tmp_path, monkeypatch):
    """The second is refused, also on another path to the same place."""
    (tmp_path / "link").symlink_to(tmp_path)
    save = SegmentationModel.save_pretrained

    def meanwhile(self, folder):
        with pytest.raises(ModelError, match="Another process is writing"):
            write_model(self, tmp_path / "link" / "m")
        return save(self, folder)

    monkeypatch.setattr(SegmentationModel, "save_pretrained", meanwhile)
    write_model(fold_run(opened), tmp_path / "m")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["link", "m"]


def test_nothing_half_written_is_left_and_the_old_model_stays(opened, tmp_path, monkeypatch):
    out = tmp_path / "model"
    write_model(fold_run(opened), out)
    whole = (out / "README.md").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SegmentationModel, "generate_model_card", full)
    rows = foreign_vocabulary(opened, (("a",), ("b",)), np.eye(2, 16))
    with pytest.raises(ModelError, match="No space left"):
        write_model(fold_run(opened, rows), out, overwrite=True)
    assert [f.name for f in tmp_path.iterdir()] == ["model"]
    assert (out / "README.md").read_text() == whole
    shutil.rmtree(out)
    with pytest.raises(ModelError, match="No space left"):
        write_model(fold_run(opened, rows), out)
    assert list(tmp_path.iterdir()) == []
