"""The commands of GKC on real COCO photos with panoptic-merged masks, as a folder of one's own; random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from c2s_cache import open_cache

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PHOTOS = 6


@pytest.fixture
def folder(shared_data: Path, tmp_path: Path) -> Path:
    """A few of the photos, all classes seen but two that they show."""
    source = shared_data / "coco_photos"
    if not source.is_dir():
        pytest.skip("the COCO photos are not beside this checkout")
    root = tmp_path / "photos"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for photo in sorted((source / "images").iterdir())[:PHOTOS]:
        shutil.copy(photo, root / "images")
        shutil.copy(source / "masks" / f"{photo.stem}.png", root / "masks")
    classes = yaml.safe_load((source / "config.yaml").read_text())["classes"]
    asked = {"classes": classes, "ignore": [0], "unseen": [classes[51], classes[55]]}
    (root / "classes.yaml").write_text(yaml.safe_dump(asked))
    return root


def test_build_train_score_predict_and_fold(
    c2s, folder: Path, tmp_path: Path, tiny_teacher: str
) -> None:
    def run(*arguments: object) -> str:
        code, out, err = c2s(*arguments)
        assert code == 0, err
        return out

    words = f"words.synonyms={{{yaml.safe_load((folder / 'classes.yaml').read_text())['classes'][1]}: [man]}}"
    build = ("cache", "build", "--dataset", folder, "--method", "gkc", "--teacher", tiny_teacher)
    run(*build, "--out", "photos.zarr", "--set", words, "--set", "view_size=128")
    cache = open_cache(tmp_path / "photos.zarr", ("segments", "words"))
    m = cache.manifest
    assert "instances" not in m.stage_names  # the folder does not tell things apart
    assert m.axes["word"] == len(m.seen) + 1
    found = cache.read(0, ["segments/class", "segments/cls"])
    assert len(found["segments/class"]) > 2 * PHOTOS
    assert not set(found["segments/class"].tolist()) & set(m.unseen)
    assert json.loads(run("cache", "verify", "photos.zarr", "--quick", "--json"))["findings"] == []

    train = ("train", "--cache", "photos.zarr", "--method", "gkc", "--name", "r")
    student = ("--student", "mask2former:resnet18", "--iterations", 3, "--batch-size", 2)
    run(*train, *student, "--workers", 0, "--set", "method.points=500", "--set", "log_every=1")
    lines = (tmp_path / "runs/r/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(v) for line in lines for v in json.loads(line).values())
    score = ("eval", "--run", "runs/r", "--dataset", folder, "--split", "train", "--limit", 2)
    assert json.loads(run(*score, "--mode", "whole", "--json"))["images"] == 2
    photo = next((folder / "images").iterdir())
    words = "black car, red car, animal"
    run("predict", photo, "--run", "runs/r", "--classes", words, "--out", "out", "--mode", "whole")
    assert (tmp_path / f"out/{photo.stem}.png").is_file()
    run("fold", "--run", "runs/r", "--out", "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["kind"] == "asked"
