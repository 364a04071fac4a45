"""Small real caches of synthetic COCO-Stuff photos by a tiny CLIP, and how to compare them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_pipeline.request import BuildRequest


def request(teacher, **changes):
    settings = {
        "teacher": teacher,
        "block_rows": 2,
        "batch_size": 2,
        "view_size": 32,
        "dense": "float16",
    }
    return BuildRequest(**(settings | {"masks": {"windows": (2, 3)}} | changes))


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
