"""CLIP-RC's commands on real VOC photos, on the tower of a full-size ViT-B-16 of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from in_process import Command, command
from official_trees import make_context
from PIL import Image
from safetensors.torch import load_file

from c2s_cache import Cache

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
CACHE = ("--cache", "voc.zarr", "--method", "clip-rc")
STEPS = ("--set", "image_size=256", "--iterations", 2, "--batch-size", 2, "--workers", 0)
SCORE = ("--run", "runs/rc", "--limit", 1, "--mode", "whole", "--json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a checkpoint of random weights lies, and a cache of two photos and a run come to."""
    where = tmp_path_factory.mktemp("clip-rc")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-16").state_dict(), where / "vit_b_16.pt")
    return where


@pytest.fixture(scope="module")
def c2s(folder: Path, shared_data: Path) -> Command:
    """The command, with a trained run `rc` on a cache for both methods."""
    run = command(folder, shared_data)
    build = ("cache", "build", "--dataset", "voc", "--pretrained", "vit_b_16.pt")
    size = ("--set", "view_size=256", "--limit", 2)
    both = ("--method", "clip-to-seg", "--method", "clip-rc")
    run(*build, *size, *both, "--out", "voc.zarr")
    run("train", *CACHE, "--name", "rc", *STEPS)
    return run


def test_the_tower_is_stored_trained_on_and_saved_once(c2s: Command, folder: Path) -> None:
    stages = Cache(folder / "voc.zarr").manifest.stage_names
    assert {"tower", "masks", "regions"} < set(stages)
    run = folder / "runs/rc"
    frozen = load_file(run / "frozen.safetensors")
    trained = load_file(run / "checkpoint/student.safetensors")
    assert not frozen.keys() & trained.keys()
    assert sum(v.numel() for v in frozen.values()) == 86_192_640
    assert round(sum(v.numel() for v in trained.values()) / 1e6, 3) == 20.910
    given = torch.load(folder / "vit_b_16.pt")
    want = given["visual.transformer.resblocks.11.mlp.c_fc.weight"]
    assert torch.equal(frozen["backbone.vit.blocks.11.mlp.fc1.weight"], want)
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss"]) for entry in losses)


def test_it_is_scored_here_and_on_context(
    c2s: Command, folder: Path, shared_data: Path, tmp_path: Path
) -> None:
    scores = json.loads(c2s("eval", *SCORE, "--dataset", "voc"))
    assert (scores["seen_offset"], scores["setting"]) == (0.1, "inductive")
    assert scores["paper"] == {"hIoU": 88.4, "sIoU": 92.8, "uIoU": 84.4}
    make_context(tmp_path, np.random.default_rng(0))
    there = ("--dataset", "context", "--root", tmp_path, "--vocabulary", "names")
    elsewhere = json.loads(c2s("eval", *SCORE, *there))
    assert (elsewhere["seen_offset"], elsewhere["setting"]) == (0.0, "cross-dataset, inductive")
    assert elsewhere["pAcc"] is not None
    photo = next((shared_data / "VOCdevkit/VOC2012/JPEGImages").iterdir())
    words = ("--classes", "cat, sofa, bird", "--mode", "whole")
    c2s("predict", photo, "--run", "runs/rc", *words, "--out", tmp_path / "out")
    with Image.open(photo) as image, Image.open(tmp_path / f"out/{photo.stem}.png") as found:
        assert image.size == found.size


def test_it_goes_on_transductively(c2s: Command, folder: Path) -> None:
    c2s("train", "--self-train", "runs/rc", "--iterations", 1)
    first, later = (load_file(folder / f"runs/{n}/frozen.safetensors") for n in ("rc", "rc-st"))
    assert all(torch.equal(first[k], v) for k, v in later.items())


def test_it_is_folded_and_exported(c2s: Command, folder: Path) -> None:
    """The program holds the tower, and says what the run says."""
    from c2s.runs.run import open_run

    c2s("fold", "--run", "runs/rc", "--out", "model", "--export")
    program = torch.export.load(folder / "model/model.pt2").module()
    opened = open_run(folder / "runs/rc")
    text = torch.from_numpy(opened.vocabulary.embeddings).float()
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = opened.student.eval().classify(images, text)
        torch.testing.assert_close(program(images), want, rtol=1e-4, atol=1e-6)


def test_table_5_is_run(c2s: Command) -> None:
    table = ("ablate", *CACHE, "--table", 5, "--out", "tables", "--limit", 1, *STEPS[:2])
    few = ("--iterations", 1, "--batch-size", 1, "--set", "workers=0", "--json")
    facts = json.loads(c2s(*table, *few))
    assert facts["failed"] == {}
    assert [row["paper"]["hIoU"] for row in facts["grids"][0]["rows"]] == [84.3, 85.4, 87.4, 88.4]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("bridge=9", "method.bridge=9: 3 x 3 regions do not divide the 16 x 16 patches"),
        ("bridge=5", "bridge=5 is no square number"),
        ("prompts=-1", "prompts"),
        ("heads=7", "heads=7 does not divide the width 512"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(c2s: Command, setting: str, says: str) -> None:
    said = c2s("train", *CACHE, *STEPS, "--set", f"method.{setting}", "--name", "not", code=2)
    assert says in said
    assert "Traceback" not in said


def test_a_tower_that_is_no_transformer_is_refused(c2s: Command) -> None:
    build = ("cache", "build", "--dataset", "voc", "--teacher", "RN50", "--pretrained", "random")
    said = c2s(*build, "--method", "clip-rc", "--limit", 1, "--out", "rn.zarr", code=2)
    assert "teacher RN50 has an image tower that is no plain CLIP vision transformer" in said
    assert "Traceback" not in said


def test_a_run_on_the_cache_of_another_tower_is_refused(c2s: Command, folder: Path) -> None:
    """The same model, other weights: what was trained on the one is not continued on the other."""
    torch.manual_seed(1)
    torch.save(open_clip.create_model("ViT-B-16").state_dict(), folder / "other.pt")
    build = ("cache", "build", "--dataset", "voc", "--pretrained", "other.pt", "--limit", 2)
    c2s(*build, "--set", "view_size=256", "--method", "clip-rc", "--out", "other.zarr")
    said = c2s("train", "--self-train", "runs/rc", "--cache", "other.zarr", code=1)
    assert "was trained on other classes or another teacher than the cache has" in said
    assert "Traceback" not in said
