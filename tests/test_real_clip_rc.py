"""CLIP-RC's commands on real VOC photos, on the tower of a full-size ViT-B-16 of random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from c2s.cli import main
from c2s_cache import Cache

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
SMALL = ("--set", "view_size=256", "--limit", 2)
STEPS = ("--set", "image_size=256", "--iterations", 2, "--batch-size", 2, "--workers", 0)


@pytest.fixture
def c2s(monkeypatch, capsys, tmp_path, shared_data):
    """The command in this process and an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("C2S_DATA", str(shared_data))

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["c2s", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


def test_from_photos_to_scores(c2s, tmp_path: Path, shared_data: Path) -> None:
    """The tower is stored, trained on, saved once, scored and predicted with."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16")
    torch.save(model.state_dict(), tmp_path / "vit_b_16.pt")
    build = ("cache", "build", "--dataset", "voc", "--pretrained", "vit_b_16.pt", *SMALL)
    c2s(*build, "--method", "clip-rc", "--out", "voc.zarr")
    assert Cache(tmp_path / "voc.zarr").manifest.stage_names[-2:] == ("text", "tower")

    c2s("train", "--cache", "voc.zarr", "--method", "clip-rc", "--name", "rc", *STEPS)
    run = tmp_path / "runs/rc"
    frozen = load_file(run / "frozen.safetensors")
    trained = load_file(run / "checkpoint/student.safetensors")
    assert not frozen.keys() & trained.keys()
    assert sum(v.numel() for v in frozen.values()) == 86_192_640
    assert round(sum(v.numel() for v in trained.values()) / 1e6, 3) == 20.910
    want = model.visual.state_dict()["transformer.resblocks.11.mlp.c_fc.weight"]
    assert torch.equal(frozen["backbone.vit.blocks.11.mlp.fc1.weight"], want)
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss"]) for entry in losses)

    score = ("--dataset", "voc", "--limit", 1, "--mode", "whole", "--json")
    scores = json.loads(c2s("eval", "--run", run, *score))
    assert (scores["seen_offset"], scores["setting"]) == (0.1, "inductive")
    assert scores["paper"] == {"hIoU": 88.4, "sIoU": 92.8, "uIoU": 84.4}
    photo = next((shared_data / "VOCdevkit/VOC2012/JPEGImages").iterdir())
    c2s(
        "predict",
        photo,
        "--run",
        run,
        "--classes",
        "cat, sofa, bird",
        "--mode",
        "whole",
        "--out",
        "out",
    )
    assert (tmp_path / f"out/{photo.stem}.png").is_file()
