"""The three commands on real COCO-Stuff photos, with a full-size ViT-B-16 and SegFormer-B0."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from c2s_cache import open_cache
from c2s_cache.integrity import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def c2s(*arguments: object, folder: Path, data: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command in `folder`, as a user would."""
    command = [sys.executable, "-c", "from c2s.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "C2S_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-B-16 checkpoint of random weights, written as open_clip's training would."""
    import open_clip

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vit_b_16.pt"
    torch.save(open_clip.create_model("ViT-B-16").state_dict(), path)
    return path


def test_build_train_and_evaluate(shared_data: Path, checkpoint: Path, tmp_path: Path) -> None:
    build = ("cache", "build", "--dataset", "coco-stuff", "--pretrained", checkpoint)
    c2s(*build, folder=tmp_path, data=shared_data)
    path = tmp_path / "cache" / "coco.zarr"
    cache = open_cache(path)
    assert verify(cache) == []
    assert (cache.manifest.rows, cache.manifest.teacher.grid) == (13, (14, 14))
    assert (cache.quarantine, cache.manifest.teacher.dim) == ([], 512)
    assert "nothing to do" in c2s(*build, folder=tmp_path, data=shared_data).stdout
    check_cls_tokens(path, checkpoint)

    train = ("train", "--cache", path, "--student", "segformer-b0", "--name", "real")
    options = ("--iterations", 24, "--batch-size", 2, "--workers", 1)
    c2s(*train, *options, folder=tmp_path, data=shared_data)
    run = tmp_path / "runs" / "real"
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(list(_numbers(entry))).all() for entry in losses)

    evaluate = ("eval", "--run", run, "--dataset", "coco-stuff", "--json", "--mode", "whole")
    result = json.loads(c2s(*evaluate, folder=tmp_path, data=shared_data).stdout)
    assert set(result) >= {"sIoU", "uIoU", "hIoU", "pAcc", "classes"}
    assert len(result["classes"]) == 171
    assert sum(c["unseen"] for c in result["classes"]) == 15


def _numbers(entry: dict[str, object]) -> list[float]:
    return [float(v) for v in entry.values() if isinstance(v, (int, float))]


def check_cls_tokens(path: Path, checkpoint: Path) -> None:
    """The cached global CLS is open_clip's own encode_image of its own preprocessing."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-16", pretrained=str(checkpoint)
    )
    model.eval()
    block = open_cache(path).read_block(0, ["images/data", "global_cls/cls"])
    for i in (0, 5):
        sample = block.sample(i)
        image = preprocess(Image.open(io.BytesIO(sample["images/data"])))[None]
        with torch.inference_mode():
            want = model.encode_image(image)[0].numpy()
        np.testing.assert_allclose(sample["global_cls/cls"].astype(np.float32), want, atol=2e-3)
