"""Every method of c2s keeps what `c2s.testing` asks of it."""

from __future__ import annotations

from c2s.methods.registry import method_class
from c2s.testing import MethodContract


class TestClipToSeg(MethodContract):
    def config(self):
        return method_class("clip-to-seg")(name="clip-to-seg")
