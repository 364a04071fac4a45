"""What a training, a run folder and an evaluation rely on of a student."""

from __future__ import annotations

import copy
import json
import re
from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Tensor

from c2s.students import create
from c2s.students.base import FeatureStudent, Student, parameter_groups


class StudentContract(ABC):
    """Subclass it as `TestMine` and say which student is meant; every test makes it by the registry.

    Attributes:
        dim: D, width of the text embeddings that it is asked with.
        idle: pattern of the names of parameters that its scores do not depend on, such as an auxiliary head.
    """

    dim = 24
    idle = "(?!)"

    @abstractmethod
    def name(self) -> str:
        """As `--student` takes it."""

    def student(self) -> Student:
        """The student in evaluation, with random weights, made once."""
        return _student(self.name(), self.dim)

    def images(self, *size: int) -> Tensor:
        """Noise [B, 3, H, W], the same each time."""
        return torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(1))

    def text(self, count: int = 5) -> Tensor:
        """Text embeddings [count, D]."""
        drawn = torch.randn(count, self.dim, generator=torch.Generator().manual_seed(2))
        return torch.nn.functional.normalize(drawn, dim=1)

    def test_it_says_what_it_is(self) -> None:
        student = self.student()
        assert student.dim == self.dim
        assert all(len(values) == 3 for values in (student.mean, student.std))
        assert isinstance(student.backbone, torch.nn.Module)

    @torch.no_grad()
    def test_images_of_any_size_get_scores_of_any_classes(self) -> None:
        for height, width in ((64, 96), (33, 47), (65, 64), (97, 61)):
            images = self.images(1, height, width)
            scores = self.student().classify(images, self.text())
            assert scores.shape[:2] == (1, 5)
            assert scores.dtype == torch.float32
            assert scores.isfinite().all()
        none = self.student().classify(images, self.text(0))
        assert none.shape == (1, 0, *scores.shape[2:])

    @torch.no_grad()
    def test_the_same_is_said_twice(self) -> None:
        images, student = self.images(1, 64, 96), self.student()
        assert torch.equal(
            student.classify(images, self.text()), student.classify(images, self.text())
        )

    @torch.no_grad()
    def test_an_image_does_not_depend_on_those_beside_it(self) -> None:
        images = self.images(2, 64, 64)
        alone = self.student().classify(images[:1], self.text())
        among = self.student().classify(images, self.text())[:1]
        torch.testing.assert_close(alone, among, rtol=1e-3, atol=1e-4)

    @torch.no_grad()
    def test_a_class_keeps_its_scores_wherever_it_stands(self) -> None:
        images, order = self.images(1, 64, 64), torch.tensor([3, 0, 4, 1, 2])
        scores = self.student().classify(images, self.text())
        torch.testing.assert_close(
            self.student().classify(images, self.text()[order]),
            scores[:, order],
            rtol=1e-3,
            atol=1e-4,
        )

    def test_every_parameter_learns(self) -> None:
        model = copy.deepcopy(self.student()).train()
        torch.manual_seed(0)
        loss = model.classify(self.images(2, 96, 128), self.text()).square().mean()
        torch.autograd.backward(loss)
        for name, parameter in model.named_parameters():
            frozen = bool(model.frozen) and name.startswith(tuple(model.frozen))
            learns = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            assert parameter.requires_grad != frozen, name
            assert learns != (frozen or bool(re.search(self.idle, name))), name

    def test_saved_and_made_again_it_is_the_same(self) -> None:
        """By its name, and what it says of its architecture in JSON."""
        student = self.student()
        torch.manual_seed(5)
        known = json.loads(json.dumps(student.architecture))
        again = create(self.name(), self.dim, "random", known).eval()
        again.load_state_dict(student.state_dict())
        images = self.images(2, 64, 64)
        with torch.no_grad():
            want = student.classify(images, self.text())
            assert torch.equal(again.classify(images, self.text()), want)
        training = []
        for model in (copy.deepcopy(student).train(), again.train()):
            torch.manual_seed(6)
            training.append(model.classify(images, self.text()))
        assert torch.equal(*training)

    def test_its_head_learns_faster_than_its_backbone(self) -> None:
        student = self.student()
        groups = parameter_groups(student, lr=1.0, weight_decay=0.1, head_lr_mult=10)
        names = [name for group in groups for name in group["names"]]
        learning = [n for n, p in student.named_parameters() if p.requires_grad]
        assert sorted(names) == sorted(learning)
        slow = {name for group in groups if group["lr"] == 1.0 for name in group["names"]}
        assert slow or any(p.startswith("backbone") for p in student.frozen)
        if isinstance(student, FeatureStudent):
            assert not [n for n in slow if n.startswith(f"{student.classifier}.")]

    @torch.no_grad()
    def test_its_features_come_from_its_classifier(self) -> None:
        """Of a feature student: doubled, the layer doubles them, so that classes can be folded into it."""
        student = self.student()
        if not isinstance(student, FeatureStudent):
            return
        images = self.images(1, 65, 64)
        features = student(images)
        assert features.shape[:2] == (1, self.dim)
        doubled = copy.deepcopy(student)
        for parameter in doubled.get_submodule(student.classifier).parameters():
            parameter.mul_(2)
        torch.testing.assert_close(doubled(images), 2 * features, rtol=1e-4, atol=1e-4)


@lru_cache(maxsize=4)
def _student(name: str, dim: int) -> Student:
    torch.manual_seed(0)
    return create(name, dim, "random").eval()
