"""A few frames of moving scenes, and a small cache of them."""

from __future__ import annotations

from c2s.datasets import load_dataset
from c2s.testing import shapes
from c2s_cache import Cache, Manifest
from c2s_pipeline.build.request import build_request, make_manifest
from c2s_pipeline.build.rows import part_of
from c2s_pipeline.stages.registry import closed

MOVING = load_dataset("shapes-moving").split("train")


class Frames:
    """Two frames each of two clips. The second clip has two crosses, of which the other one comes first in frame 5."""

    ids = (*MOVING.ids[5:7], *MOVING.ids[8 * 32 + 4 : 8 * 32 + 6])

    def __getattr__(self, name):
        return getattr(MOVING, name)


def frames_manifest(*stages: str) -> Manifest:
    """Of a cache of these frames."""
    request = build_request(**{**shapes.SETTINGS, "stages": closed(("clips", *stages))})
    return make_manifest(MOVING, request, [part_of(MOVING, Frames.ids)], shapes.teacher().info())


def frames_cache(*stages: str) -> Cache:
    """One block of them."""
    manifest = frames_manifest(*stages)
    return shapes.written(manifest, shapes.computed(manifest, Frames())[0])
