"""Which devices get a worker."""

from __future__ import annotations

import pytest
import torch

from c2s.ablation.workers import gpu_workers


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [
        (0, None, [""]),
        (1, None, [""]),
        (3, None, ["0", "1", "2"]),
        (2, "5,7", ["5", "7"]),
    ],
)
def test_one_worker_per_visible_gpu(monkeypatch, count, visible, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_workers() == expected
