"""Caches of five photos in three blocks, built once on the tests' shared cluster."""

from __future__ import annotations

from functools import partial

import distributed
import pytest
from one_thread import one_thread
from small_builds import first_build

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_pipeline.build.builder import build as build_cache

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def build(scheduler):
    """`build` on the tests' shared cluster."""
    return partial(build_cache, scheduler=scheduler)


@pytest.fixture(scope="session")
def built(build, tiny_teacher, tmp_path_factory):
    """A cache of canonical views, and its source."""
    return first_build(build, tiny_teacher, tmp_path_factory.mktemp("canonical"), 1)


@pytest.fixture(scope="session")
def built_views(build, tiny_teacher, tmp_path_factory):
    """A cache of three random views per photo, and its source."""
    return first_build(build, tiny_teacher, tmp_path_factory.mktemp("views"), 3)


@pytest.fixture(params=["built", "built_views"])
def any_built(request):
    """Either cache, its source, and how many views it has."""
    return *request.getfixturevalue(request.param), 1 if request.param == "built" else 3


@pytest.fixture
def source(coco_tree):
    return FolderSplit(DESCRIPTOR, coco_tree(count=4), "train")


@pytest.fixture(scope="module")
def scheduler_of_threads():
    """Address of a Dask cluster whose worker is a thread of this process, which knows its modules."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address
