"""Tests that any stage, teacher, method or student must pass: subclass a contract in a test module of pytest's, and
give it what it tests."""

from c2s.testing.method import MethodContract
from c2s.testing.stage import StageContract
from c2s.testing.student import StudentContract
from c2s.testing.teacher import TeacherContract, TextEncoderContract

__all__ = [
    "MethodContract",
    "StageContract",
    "StudentContract",
    "TeacherContract",
    "TextEncoderContract",
]
