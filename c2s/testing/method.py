"""What the loader and the trainer rely on of a method."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from c2s.methods.base import Facts, Method, MethodConfig
from c2s.methods.batch import Batch
from c2s.methods.examples import Examples, cut_view
from c2s.students.base import Student, normalize_images
from c2s.testing import shapes
from c2s_cache import Cache
from c2s_pipeline.stages.registry import closed


class MethodContract(ABC):
    """Subclass it as `TestMine` and say which method is meant; it is tried on a few Shapes scenes.

    Attributes:
        student_name: of the student that it drives.
        further: stages, by `python:MODULE:CLASS`, that no package brings.
    """

    student_name = "shapes-net"
    further: tuple[str, ...] = ()

    @abstractmethod
    def config(self) -> MethodConfig:
        """Its settings."""

    def cache(self, beside: bool = True) -> Cache:
        """A cache with its stages, and those beside them."""
        config = self.config()
        known = closed((*self.further, *config.read_stages(), *(config.beside if beside else ())))
        return shapes.shapes_cache(known)

    def examples(self, beside: bool = True) -> Examples[Any]:
        """How it learns from that cache, as a loader process has it."""
        found: Examples[Any] = pickle.loads(
            pickle.dumps(self.config().examples(self.cache(beside).manifest))
        )
        return found

    def batch(self, beside: bool = True, online: bool = False) -> Batch:
        """All scenes; `online`: what the teacher says is not in the samples."""
        examples = self.examples(beside)
        block = self.cache(beside).read_block(0, examples.paths)
        made = []
        for i in range(len(block)):
            sample = block.sample(i)
            told = {path: sample[path] for path in examples.teacher_paths}
            if online:
                left = {p: v for p, v in sample.arrays.items() if p not in examples.teacher_paths}
                sample = replace(sample, arrays=left)
            made.append(examples.example(cut_view(sample, 64), told))
        return examples.collate(made)

    def method(self, beside: bool = True) -> Method:
        """Its module, with the seen classes of the cache."""
        torch.manual_seed(0)
        cache = self.cache(beside)
        return self.config().build(Facts.of(cache, self.student())).train()

    def student(self) -> Student:
        """A student of its kind."""
        torch.manual_seed(0)
        return self.config().new_student(self.student_name, "random", self.cache()).train()

    def step(
        self, method: Method, batch: Batch, student: Student | None = None
    ) -> dict[str, Tensor]:
        """Losses of one step."""
        student = student or self.student()
        torch.manual_seed(1)
        losses: dict[str, Tensor] = method(student, normalize_images(batch.image, student), batch)
        return losses

    def test_its_settings_survive_json(self) -> None:
        config = self.config()
        assert type(config).model_validate_json(config.model_dump_json()) == config
        assert isinstance(self.student(), config.kind)

    def test_it_reads_what_the_stages_that_it_names_hold(self) -> None:
        config = self.config()
        for beside in (True, False):
            examples, manifest = self.examples(beside), self.cache(beside).manifest
            assert examples.teacher_paths <= examples.paths <= manifest.arrays.keys()
            owners = {manifest.owners[path] for path in examples.teacher_paths}
            assert owners <= set(config.read_stages())
            assert examples.pixel_bytes >= 3

    def test_a_batch_has_a_row_for_each_view(self) -> None:
        batch = self.batch()
        assert len(batch) == shapes.ROWS
        for name, value in _tensors(batch).items():
            assert len(value) == shapes.ROWS, name

    def test_a_teacher_in_the_loop_may_answer(self) -> None:
        """What the teacher says is taken from its answers."""
        stored, told = _tensors(self.batch()), _tensors(self.batch(online=True))
        assert stored.keys() == told.keys()
        for name, value in stored.items():
            assert torch.equal(value, told[name]), name

    def test_losses_are_finite_and_teach_the_student(self) -> None:
        student = self.student()
        losses = self.step(self.method(), self.batch(), student)
        for name, value in losses.items():
            assert value.ndim == 0, name
            assert value.isfinite(), name
        torch.autograd.backward(losses["loss"])
        taught = [p.grad is not None and bool(p.grad.any()) for p in student.parameters()]
        assert any(taught)
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())

    def test_a_batch_is_left_as_it_was(self) -> None:
        batch = self.batch()
        before = {name: value.clone() for name, value in _tensors(batch).items()}
        torch.autograd.backward(self.step(self.method(), batch)["loss"])
        for name, value in _tensors(batch).items():
            assert torch.equal(value, before[name]), name

    def test_it_trains_on_its_stages_alone(self) -> None:
        """Photos without labels and class names have nothing of the stages beside them."""
        losses = self.step(self.method(beside=False), self.batch(beside=False))
        assert losses["loss"].isfinite()
        torch.autograd.backward(losses["loss"])

    def test_saved_and_read_back_it_goes_on_the_same(self) -> None:
        method, batch = self.method(), self.batch()
        self.step(method, batch)
        again = self.method()
        again.load_state_dict(method.state_dict())
        want, found = self.step(method, batch), self.step(again, batch)
        assert torch.equal(want["loss"], found["loss"])


def _tensors(batch: Batch) -> dict[str, Tensor]:
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}
