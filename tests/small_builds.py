"""Small real caches of synthetic COCO-Stuff photos by a tiny CLIP, and how to compare them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import Block
from c2s_pipeline.build.request import BuildRequest, build_request

SHORT = {
    "views": ("views", "count"),
    "dense": ("dense", "tier"),
    "templates": ("text", "templates"),
    "prompts": ("text", "prompts"),
    "text_embeddings": ("text", "embeddings"),
    "check_text": ("text", "check"),
}
"""Settings of stages that tests write without their stage."""


def nested(changes):
    """Values of a request from short ones."""
    values = {key: value for key, value in changes.items() if key not in SHORT}
    for key in changes.keys() & SHORT.keys():
        stage, name = SHORT[key]
        values.setdefault(stage, {})[name] = changes[key]
    return values


def made(**changes) -> BuildRequest:
    """A request from short values."""
    return build_request(**nested(changes))


def request(teacher, **changes):
    settings = {
        "teacher": teacher,
        "block_rows": 2,
        "batch_size": 2,
        "view_size": 32,
        "dense": "float16",
    }
    return made(**(settings | {"masks": {"windows": (2, 3)}} | changes))


class InMemory:
    """What is there of a block, as `c2s_pipeline.batch.Stored`."""

    def __init__(self, manifest=None, arrays=()):
        self.arrays = arrays
        self.block = manifest and Block(manifest, 0, arrays)

    def __contains__(self, path):
        return path in self.arrays

    def item(self, path, row, view):
        return self.block.item(path, row, view)


NOTHING = InMemory()


def no_teacher():
    raise AssertionError("this needs no teacher")


def contents(path: Path) -> dict[str, str]:
    """Digest of every file, without the one that may differ."""
    files = (f for f in sorted(path.rglob("*")) if f.is_file() and f.name != "provenance.jsonl")
    return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def first_build(build, teacher, folder, views):
    """A cache of five photos in three blocks, and its source."""
    from conftest import make_coco_tree

    root = make_coco_tree(folder / "coco_stuff164k", count=5)
    source = FolderSplit(DESCRIPTOR, root, "train")
    report = build(source, request(teacher, views=views), folder / "coco.zarr")
    assert (report.built, report.reused) == (5, 0)
    return report.path, source
