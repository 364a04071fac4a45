"""Training on a device that is not the CPU: the same losses, no tensor left behind, no waiting."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import torch
from second_device import (
    DEVICES,
    NAME,
    OtherDevice,
    There,
    here,
    is_there,
    near,
    other_device,
    second_device,
)
from torch import nn

from c2s.methods.base import Facts
from c2s.methods.clip_to_seg import ClipToSegBatch, SelfTraining
from c2s.methods.clip_to_seg.config import ClipToSegConfig
from c2s.training.datamodule import C2SDataModule
from c2s.training.run import build_module
from c2s.vocabulary import Vocabulary
from c2s_cache import open_cache

METHODS = [
    {},
    {"global_distillation": False, "local_distillation": False},
    {"local_negatives": "batch", "local_targets": "teacher", "same_class": 0.8},
]
MORE = [
    {"distillation": "cosine"},
    {"distillation": "l2"},
    {"distillation": "residual"},
    {"global_negatives": "both", "bank_size": 3, "local_reduction": "area"},
    {"bank_size": 0, "normalize": False, "normalize_seen": False},
    *({"generator": g} for g in ("prototype", "prototype-mlp", "cls", "cls-mlp")),
    {"calibration": "local", "local_reduction": "mean"},
    {"aggregation": "max", "supervision": "features"},
    {"aggregation": "mean", "latent_embedding": False},
]


def steps(cache, config, device, changed=lambda module: None):
    """Losses of three iterations, and the module."""
    torch.manual_seed(0)
    opened = open_cache(cache)
    module = build_module(config, opened)
    changed(module)
    for part in module.modules():  # random draws differ between devices
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    module.to(device).train()
    data = C2SDataModule(config, opened)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    found = []
    for batch in data.stream(0, 3):
        batch = data.transfer_batch_to_device(batch, torch.device(device), 0)
        optimizer.zero_grad()
        losses = module.training_step(batch, 0)
        losses["loss"].backward()
        optimizer.step()
        if module.averaged is not None:
            module.averaged.update_parameters(module.student)
        found.append({k: v.detach() for k, v in losses.items()})
    return found, module


def compare(device, cache, config, changed=lambda module: None):
    want, _ = steps(cache, config, "cpu", changed)
    with other_device(device) as waits:
        got, module = steps(cache, config, device, changed)
        for p in module.parameters():
            assert is_there(p)
            assert p.grad is None or is_there(p.grad)
    for ours, plain in zip(got, want, strict=True):
        assert ours.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(here(ours[name]), value, **near(device))
    return waits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "method",
    [*METHODS, *(pytest.param(more, marks=pytest.mark.slow) for more in MORE)],
    ids=lambda m: "-".join(map(str, m.values())) or "paper",
)
def test_every_objective(tiny_views_cache, tmp_path, method, device):
    options = {"method": {"heads": 4} | method}
    config = tiny_runs.settings(tiny_views_cache, tmp_path, options, student="shapes-net")
    assert compare(device, tiny_views_cache, config) == {}


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("student", ["segformer-b0", "segnext-t"])
def test_students(tiny_cache, tmp_path, student, device):
    config = tiny_runs.settings(tiny_cache, tmp_path, {"method": {"heads": 4}}, student=student)

    def without_paths(module):
        for part in module.modules():
            if hasattr(part, "drop_prob"):
                part.drop_prob = 0.0

    compare(device, tiny_cache, config, without_paths)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_averaged_weights(tiny_cache, tmp_path, device):
    options = {"method": {"heads": 4}}
    config = tiny_runs.settings(tiny_cache, tmp_path, options, student="shapes-net", ema=0.9)
    waits = compare(device, tiny_cache, config)
    assert set(waits) <= {
        "item",
        "_local_scalar_dense",
        "is_nonzero",
    }  # whether it is the first one
    assert waits.total() <= 3 * 2


@pytest.mark.parametrize("device", DEVICES)
def test_self_training(device):
    torch.manual_seed(0)
    text = nn.functional.normalize(torch.randn(6, 16), dim=1)
    seen = Vocabulary(tuple("abce"), text[:4].numpy(), ids=(0, 1, 2, 4))
    unseen = Vocabulary(("d", "f"), text[4:].numpy(), unseen=(3, 5), ids=(3, 5))
    method = SelfTraining(ClipToSegConfig(confidence=0.2), Facts(seen, 6, unseen))
    features = torch.randn(2, 16, 4, 4)
    pseudo = torch.randint(-1, 3, (2, 8, 8))
    batch = ClipToSegBatch(
        image=torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        pseudo=pseudo,
        global_cls=torch.randn(2, 16),
        region_cls=torch.randn(2, 2, 16),
        region_ids=torch.tensor([[0, 1], [1, -1]]),
        max_id=2,
        unseen=pseudo == -1,
    )
    want = method.eval().losses(features, batch)
    with other_device(device) as waits:
        got = method.to(device).losses(features.to(device), batch.to(device))
    assert waits == {}
    for name, value in want.items():
        torch.testing.assert_close(here(got[name]), value, **near(device, 1.3e-6, 1e-5))


@pytest.mark.gpu
def test_a_step_never_waits_for_a_gpu(tiny_views_cache, tmp_path):
    """What the second device counts, asked of CUDA itself: an operation that would wait raises."""
    config = tiny_runs.settings(tiny_views_cache, tmp_path, student="shapes-net")
    opened = open_cache(tiny_views_cache)
    module = build_module(config, opened).to("cuda").train()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    for batch in [b.to("cuda") for b in C2SDataModule(config, opened).stream(0, 3)]:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.zero_grad()
            module.training_step(batch, 0)["loss"].backward()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_second_device_refuses_what_a_gpu_would():
    with second_device() as waits:
        there = torch.arange(4, device=NAME)
        assert isinstance(torch.tensor([1.0], device=NAME), There)
        assert isinstance(there.new_tensor([2]), There)
        with pytest.raises(OtherDevice, match=r"shape \(4,\) is on the CPU"):
            there + torch.ones(4)
        with pytest.raises((RuntimeError, TypeError)):
            np.asarray(there)
        assert not waits
        assert there.sum().item() == 6
        assert bool((there > 0).any())
        assert there[there > 1].cpu().tolist() == [2, 3]
        assert waits.total() >= 4
