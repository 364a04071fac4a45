"""Memory that runs out, a GPU's or the machine's, ends a training in one sentence, and its checkpoint goes on."""

from __future__ import annotations

import pytest
import tiny_runs
import torch

from c2s.runs.run import open_run
from c2s.training import run
from c2s.training.logs import read_metrics
from c2s.training.module import DistillationModule
from c2s_cache.errors import C2SError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "raised"),
    [
        ("GPU memory", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        ("Memory", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")),
        ("Memory", MemoryError("Unable to allocate 2.00 TiB for an array")),
    ],
    ids=["GPU", "torch", "NumPy"],
)
def test_a_training_says_so_and_goes_on(tiny_views_cache, tmp_path, monkeypatch, which, raised):
    options = {"student": "shapes-net", "iterations": 4, "checkpoint_every": 1}
    config = tiny_runs.settings(tiny_views_cache, tmp_path, name="starved", **options)
    plain = DistillationModule.training_step

    def full(self, batch, batch_idx):
        if self.step == 2:
            raise raised
        return plain(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(DistillationModule, "training_step", full)
        with pytest.raises(C2SError) as error:
            run.train(config)
    said = str(error.value)
    assert said.startswith(f"{which} ran out at batch size 4 and ")
    assert f"Continue with: c2s train --resume {tmp_path / 'starved'}" in said
    run.resume(tmp_path / "starved")
    run.train(config.model_copy(update={"name": "whole"}))
    first, second = (
        open_run(tmp_path / name).student.state_dict() for name in ("starved", "whole")
    )
    assert all(torch.equal(first[k], second[k]) for k in second)
    assert [r["step"] for r in read_metrics(tmp_path / "starved")] == [1, 2, 3, 4]
