"""Which GPUs there are to give to workers."""

from __future__ import annotations

import pytest
import torch

from c2s_pipeline.devices import visible_gpus


@pytest.mark.parametrize(
    ("named", "there", "found"),
    [
        (None, 2, ["0", "1"]),
        (None, 0, []),
        ("", 0, []),
        ("3,GPU-8a56,5", 3, ["3", "GPU-8a56", "5"]),
        ("3,9,5", 1, ["3"]),  # CUDA ignores what follows a GPU that is not there
    ],
)
def test_gpus_are_those_that_this_process_sees(monkeypatch, named, there, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == found
