"""Every family of teachers keeps what `c2s.testing` asks of it."""

from __future__ import annotations

from c2s.shapes.defaults import TEACHER
from c2s.testing import TeacherContract, TextEncoderContract
from c2s_pipeline.teachers.base import TeacherSpec


class Folder:
    """A folder in open_clip's layout: the teacher of the Shapes world."""

    def spec(self):
        return TeacherSpec(TEACHER)


class LargeDense:
    """Another size, and other features, in the dense pass."""

    def spec(self):
        return TeacherSpec(TEACHER, dense_size=96, dense_features="qq")


class Own:
    """A class outside c2s."""

    def spec(self):
        return TeacherSpec("python:plain_teacher:Colours")


class TestFolder(Folder, TeacherContract): ...


class TestLargeDense(LargeDense, TeacherContract): ...


class TestOwn(Own, TeacherContract): ...


class TestTextOfAFolder(Folder, TextEncoderContract): ...


class TestTextOfOnesOwn(Own, TextEncoderContract): ...
