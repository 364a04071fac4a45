"""What a build, a training and an evaluation rely on of a teacher and of its text tower."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s_cache import TeacherInfo
from c2s_pipeline.teachers.base import Teacher, TeacherSpec, TextEncoder
from c2s_pipeline.teachers.registry import load_teacher, load_text_encoder

SENTENCES = ("a photo of a cat", "a photo of the sky", "There is a thing in the scene.")


class TeacherContract(ABC):
    """Subclass it as `TestMine` and say which teacher is meant; every test loads it by the registry.

    Attributes:
        device: where it is tested.
        tolerance: of values that are computed in batches of another size, relative to the largest.
    """

    device = "cpu"
    tolerance = 1e-4

    @abstractmethod
    def spec(self) -> TeacherSpec:
        """What to load."""

    def teacher(self) -> Teacher:
        """The teacher, loaded once."""
        return _teacher(self.spec(), self.device)

    def images(self, side: int, count: int = 3) -> NDArray[np.uint8]:
        """Noise on patches of colour, uint8 [count, side, side, 3], the same each time."""
        rng = np.random.default_rng(side)
        patches = rng.integers(0, 200, (count, 4, 4, 3)).repeat(-(-side // 4), 1)
        coloured = patches.repeat(-(-side // 4), 2)[:, :side, :side]
        return (coloured + rng.integers(0, 56, coloured.shape)).astype(np.uint8)

    def near(self, got: Tensor, want: Tensor) -> None:
        """Require values within the tolerance."""
        worst = float((got - want).abs().max() / want.abs().max())
        assert worst <= self.tolerance, f"off by {worst:.1e} of the largest value"

    def test_info_is_what_the_attributes_say(self) -> None:
        teacher = self.teacher()
        info = teacher.info()
        for name in ("dim", "image_size", "dense_size", "dense_dim", "grid", "mean", "std"):
            assert getattr(info, name) == getattr(teacher, name), name
        assert info.dense_features == teacher.spec.dense_features
        assert teacher.dense_size == teacher.grid[0] * teacher.patch_size
        assert teacher.dense_size == teacher.grid[1] * teacher.patch_size
        assert all(0 <= value <= 1 for value in info.mean)
        assert all(value > 0 for value in info.std)

    def test_info_holds_no_path(self) -> None:
        """A cache may be published."""
        info = self.teacher().info()
        assert "/" not in info.name.removeprefix("hf-hub:")
        assert "/" not in (info.pretrained or "")

    def test_info_survives_json(self) -> None:
        info = self.teacher().info()
        assert TeacherInfo.model_validate_json(info.model_dump_json()) == info

    def test_another_process_loads_the_same_by_its_spec(self) -> None:
        teacher = self.teacher()
        again = load_teacher(pickle.loads(pickle.dumps(teacher.spec)), self.device)
        assert again.info() == teacher.info()
        assert again.spec == teacher.spec
        images = self.images(teacher.image_size)
        assert torch.equal(again.embed_images(images), teacher.embed_images(images))

    def test_embeddings_are_float32_a_row_for_each_image(self) -> None:
        teacher = self.teacher()
        found = teacher.embed_images(self.images(teacher.image_size))
        assert found.shape == (3, teacher.dim)
        self.require_frozen(found)

    def test_dense_features_are_float32_a_grid_for_each_image(self) -> None:
        teacher = self.teacher()
        cls, dense = teacher.dense(self.images(teacher.dense_size))
        assert cls.shape == (3, teacher.dim)
        assert dense.shape == (3, *teacher.grid, teacher.dense_dim)
        self.require_frozen(cls)
        self.require_frozen(dense)

    def require_frozen(self, values: Tensor) -> None:
        """Require finite float32 where the teacher computes, which no gradient goes through."""
        assert values.dtype == torch.float32
        assert values.device.type == torch.device(self.device).type
        assert not values.requires_grad
        assert torch.isfinite(values).all()

    def test_images_differ_and_are_left_as_they_were(self) -> None:
        teacher = self.teacher()
        images = self.images(teacher.image_size)
        before = images.copy()
        found = teacher.embed_images(images)
        np.testing.assert_array_equal(images, before)
        assert not torch.equal(found[0], found[1])

    def test_both_passes_embed_an_image_alike(self) -> None:
        teacher = self.teacher()
        if teacher.dense_size == teacher.image_size:
            images = self.images(teacher.image_size)
            self.near(teacher.dense(images)[0], teacher.embed_images(images))

    def test_an_image_does_not_depend_on_those_beside_it(self) -> None:
        teacher = self.teacher()
        images, wide = self.images(teacher.image_size), self.images(teacher.dense_size)
        self.near(teacher.embed_images(images[1:2])[0], teacher.embed_images(images)[1])
        for alone, among in zip(teacher.dense(wide[1:2]), teacher.dense(wide), strict=True):
            self.near(alone[0], among[1])

    def test_rows_keep_their_order_however_a_batch_is_cut(self) -> None:
        teacher = self.teacher()
        images = self.images(teacher.image_size, 5)
        whole = teacher.embed_images(images)
        for most in (1, 2, 9):
            self.near(teacher.embed_images(images, most), whole)

    def test_the_same_is_said_twice_and_by_any_number_of_threads(self) -> None:
        """Bit for bit: that is what makes caches the same."""
        teacher = self.teacher()
        images = self.images(teacher.image_size, 4)
        want = teacher.embed_images(images, 2)
        before = torch.get_num_threads()
        with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(before,)) as pool:
            for found in pool.map(lambda _: teacher.embed_images(images, 2), range(6)):
                assert torch.equal(found, want)

    def test_a_pool_changes_nothing(self) -> None:
        spec, before = self.teacher().spec, torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                pooled = load_teacher(spec, self.device, pool)
                images = self.images(pooled.image_size, 5)
                want = load_teacher(spec, self.device).embed_images(images, 2)
                assert torch.equal(pooled.embed_images(images, 2), want)
        finally:
            torch.set_num_threads(before)


class TextEncoderContract(ABC):
    """Subclass it as `TestMine` and say which teacher's text tower is meant; every test loads it by the registry.

    Attributes:
        device: where it is tested.
    """

    device = "cpu"

    @abstractmethod
    def spec(self) -> TeacherSpec:
        """What to load."""

    def encoder(self) -> TextEncoder:
        """The text tower alone, loaded once."""
        return _encoder(self.spec(), self.device)

    def test_embeddings_are_unit_vectors_of_the_teachers_width(self) -> None:
        found = self.encoder().embed_text(SENTENCES)
        assert found.shape == (len(SENTENCES), _teacher(self.spec(), self.device).dim)
        assert found.dtype == torch.float32
        assert found.device.type == torch.device(self.device).type
        assert not found.requires_grad
        torch.testing.assert_close(found.norm(dim=-1), torch.ones_like(found[:, 0]))

    def test_alone_it_says_what_it_says_in_the_whole_model(self) -> None:
        """Bit for bit, and under the digest that a cache records."""
        teacher = _teacher(self.spec(), self.device)
        assert self.encoder().digest == teacher.text.digest == teacher.info().text_digest
        alone = self.encoder().embed_text(SENTENCES)
        assert torch.equal(alone, teacher.text.embed_text(SENTENCES))

    def test_sentences_differ_and_do_not_depend_on_those_beside_them(self) -> None:
        found = self.encoder().embed_text(SENTENCES)
        assert not torch.equal(found[0], found[1])
        for row, sentence in zip(found, SENTENCES, strict=True):
            torch.testing.assert_close(self.encoder().embed_text([sentence])[0], row)

    def test_several_threads_may_ask_at_once(self) -> None:
        encoder, before = self.encoder(), torch.get_num_threads()
        want = encoder.embed_text(SENTENCES)
        with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(before,)) as pool:
            for found in pool.map(lambda _: encoder.embed_text(SENTENCES), range(9)):
                assert torch.equal(found, want)


@lru_cache(maxsize=4)
def _teacher(spec: TeacherSpec, device: str) -> Teacher:
    return load_teacher(spec, device)


@lru_cache(maxsize=4)
def _encoder(spec: TeacherSpec, device: str) -> TextEncoder:
    return load_text_encoder(spec, device)
