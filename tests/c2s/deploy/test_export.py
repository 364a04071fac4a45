"""An exported program computes what the model does, for any batch and, where it can, any size."""

from __future__ import annotations

import json
import zipfile

import pytest
import torch
from torch import nn

from c2s.deploy import fold_run
from c2s.deploy.export import export_program
from c2s.deploy.info import ModelError


@pytest.mark.slow
def test_the_program_equals_the_model_at_other_sizes_and_is_no_pickle(opened, tmp_path):
    model, file = fold_run(opened), tmp_path / "model.pt2"
    assert export_program(model, file)
    program = torch.export.load(file).module()
    for size in ((1, 3, 64, 64), (5, 3, 96, 256)):
        images = torch.randn(size)
        with torch.inference_mode():
            torch.testing.assert_close(program(images), model(images), rtol=1e-4, atol=1e-4)
    with zipfile.ZipFile(file) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("model_weights_config.json")]
        weights = json.loads(archive.read(name))["config"]
    assert weights.keys() == model.state_dict().keys()
    assert not any(w["use_pickle"] for w in weights.values())


class Placed(nn.Module):
    """Adds a map of one size, as a student with fixed position embeddings does."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 3, 40, 40))

    def forward(self, images):
        return images + self.position


class Shut(nn.Module):
    """A sigmoid that underflows."""

    def forward(self, images):
        return (images - 1000).sigmoid()


class Random(nn.Module):
    """Never the same twice."""

    def forward(self, images):
        return images + torch.rand_like(images)


class Foreign(nn.Module):
    """Asks for values while it runs, which no graph can hold."""

    def forward(self, images):
        return images if float(images.sum()) > 0 else -images


@pytest.fixture
def around(opened):
    """A folded model around another student, whose views are of 40 pixels."""

    def make(student):
        model = fold_run(opened)
        model.config = model.config.model_copy(update={"crop": 40})
        model.student = student
        return model.eval()

    return make


def test_a_student_of_one_size_keeps_a_free_batch(around, tmp_path):
    model = around(Placed())
    assert not export_program(model, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.randn(7, 3, 40, 40)
    torch.testing.assert_close(program(images), model(images))
    with pytest.raises(AssertionError, match="40"):
        program(torch.randn(1, 3, 64, 64))


def test_a_program_that_computes_something_else_is_refused(around, tmp_path):
    with pytest.raises(ModelError, match=r"differs from the model by .* expected at most"):
        export_program(around(Random()), tmp_path / "model.pt2")


def test_a_student_whose_scores_are_all_0_is_exported(around, tmp_path):
    """As sigmoids of very low scores are: nothing is to be divided by them."""
    assert export_program(around(Shut()), tmp_path / "model.pt2")


def test_what_cannot_be_exported_is_one_sentence(around, tmp_path):
    with pytest.raises(ModelError, match=r"cannot be exported: ") as caught:
        export_program(around(Foreign()), tmp_path / "model.pt2")
    assert "\n" not in str(caught.value)
