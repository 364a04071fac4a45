"""Every method of c2s keeps what `c2s.testing` asks of it."""

from __future__ import annotations

from c2s.methods.registry import method_class, method_config
from c2s.testing import MethodContract


class TestClipToSeg(MethodContract):
    def config(self):
        return method_class("clip-to-seg")(name="clip-to-seg")


class TestClipRC(MethodContract):
    student_name = "prompted-clip"

    def config(self):
        small = {"prompts": 2, "bridge": 4, "heads": 4, "ffn": 32}
        return method_config({"name": "clip-rc", **small})


class TestGKC(MethodContract):
    student_name = "mask2former:shapes"

    def config(self):
        return method_class("gkc")(name="gkc", points=200)


class TestGKCWithLatentRegions(TestGKC):
    def config(self):
        return method_class("gkc")(
            name="gkc", points=0, tokens="regions", teacher_token="global", latent="regions"
        )


class TestGKCWithGrounding(TestGKC):
    def config(self):
        return method_class("gkc")(name="gkc", points=200, weights={"grounding": 2.0})


class TestZeroSeg(MethodContract):
    student_name = "zeroseg-shapes"

    def config(self):
        return method_class("zeroseg")(
            **{"name": "zeroseg", "decoder": {"layers": 1, "width": 32, "heads": 4}},
            **{"locate": 1, "patches": 1, "reverse": 1, "center": True},
        )


class TestZeroSegOnRegions(MethodContract):
    """Of a cache without seen classes."""

    student_name = "zeroseg-shapes"

    def config(self):
        return method_class("zeroseg")(
            **{"name": "zeroseg", "decoder": {"layers": 1, "width": 32, "heads": 4}},
            **{"source": "regions", "locate": 1, "patches": 1, "distance": "cosine"},
        )
