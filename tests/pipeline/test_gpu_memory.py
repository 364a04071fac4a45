"""A GPU whose memory runs out ends a build in one sentence, and the next one goes on from there."""

from __future__ import annotations

import logging

import distributed
import pytest
import torch
from small_builds import contents, request

from c2s_cache import C2SError
from c2s_cache.errors import of_gpu_memory
from c2s_pipeline.build.builder import build
from c2s_pipeline.teachers.image_teacher import ImageTeacher


@pytest.fixture
def here():
    """Address of a Dask cluster of threads of this process."""
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["torch", "cublas"],
)
def test_a_build_says_so_and_goes_on(tiny_teacher, source, tmp_path, here, monkeypatch, error):
    plain, calls = ImageTeacher.embed_images, []

    def full(self, images, batch=None):
        calls.append(len(images))
        if len(calls) > 1:
            raise error
        return plain(self, images, batch)

    def run(name):
        return build(source, request(tiny_teacher), tmp_path / name, scheduler=here)

    with monkeypatch.context() as patched:
        patched.setattr(ImageTeacher, "embed_images", full)
        with pytest.raises(C2SError, match=r"GPU memory ran out while building .*is kept"):
            run("starved.zarr")
    again, whole = run("starved.zarr"), run("whole.zarr")
    assert (again.rows, again.reused) == (4, 2)
    assert contents(again.path) == contents(whole.path)


def test_other_errors_are_no_matter_of_memory():
    assert not of_gpu_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert of_gpu_memory(RuntimeError("CUDA error: out of memory"))
