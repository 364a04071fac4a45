"""Tests that any teacher must pass: subclass a contract in a test module of pytest's, and give it what it tests."""

from c2s.testing.teacher import TeacherContract, TextEncoderContract

__all__ = ["TeacherContract", "TextEncoderContract"]
