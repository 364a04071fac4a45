"""Invariant: a benchmark runs on a real cache: the one that was named, or one built for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from c2s.config import resolve
from c2s.datasets import load_dataset
from c2s.shapes.defaults import build_defaults
from c2s.terminal import BuildBar
from c2s_cache import Cache, open_cache
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.request import BuildRequest, request_model
from c2s_pipeline.teachers.clip_names import RANDOM


def build_request(
    teacher: str | None, pretrained: str | None, dataset: str = "shapes", **options: Any
) -> BuildRequest:
    """Build settings of a data set; a teacher that is named has random weights unless they are too."""
    defaults = {
        "view_size": load_dataset(dataset).protocol.view_size,
        **build_defaults(dataset, teacher),
    }
    bundled = teacher is None and dataset == "shapes"
    weights = pretrained or (None if bundled or ":" in (teacher or "") else RANDOM)
    values = {"teacher": teacher, "pretrained": weights, **options}
    return resolve(request_model(), defaults, None, (), values)


@contextmanager
def cache_of(
    path: Path | None, images: int, teacher: str | None = None, pretrained: str | None = None
) -> Iterator[Cache]:
    """The cache at `path`, or else a temporary one of so many Shapes scenes, by the bundled teacher or
    the one that is named."""
    if path is not None:
        yield open_cache(path)
        return
    with TemporaryDirectory(prefix="c2s-bench-") as folder:
        out = Path(folder) / "shapes.zarr"
        source = load_dataset("shapes").split("train")
        with BuildBar() as bar:
            build(source, build_request(teacher, pretrained, limit=images), out, progress=bar)
        yield open_cache(out)
