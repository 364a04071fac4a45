"""A teacher of every family builds a cache; what learns from it is scored and takes new words, all by commands."""

from __future__ import annotations

from pathlib import Path

import distributed
import numpy as np
import pytest
import tiny_towers
import tiny_transformers
from PIL import Image
from typer.testing import CliRunner

from c2s.cli.app import app
from c2s.datasets import load_dataset
from c2s_cache import C2SError, open_cache

OWN = ("tiny_registers", "tiny_pe", "tiny_resnet", "tiny_fastvit")
"""Of open_clip's families: patches, attention pooling, a ResNet, convolutions."""
COLOURS, MUTE = "python:plain_teacher:Colours", "python:plain_teacher:Mute"


@pytest.fixture(scope="module")
def scheduler_here():
    """Address of a Dask cluster whose worker is a thread of this process, which knows its models."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module", autouse=True)
def families(tmp_path_factory):
    tiny_towers.register(tmp_path_factory.mktemp("families"))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs a command in a folder of its own; what it says, or `refused` in a sentence."""
    monkeypatch.chdir(tmp_path)

    def run(line, *more, refused=False):
        done = CliRunner().invoke(app, [*line.split(), *map(str, more)])
        if refused:
            assert isinstance(done.exception, C2SError), (line, done.output, done.exception)
            assert "\n" not in str(done.exception)
            return str(done.exception)
        assert done.exit_code == 0, (line, done.output, done.exception)
        return done.output

    return run


HEADS = "--set method.heads=2"  # widths are small
SMALL = "--dataset shapes --split dev --limit 4 --block-rows 2 --batch-size 2 --set view_size=32"
WINDOWS = ("--set", "masks.windows=[2]")
SHORT = f"--set iterations=2 --set batch_size=2 --set workers=0 --set accelerator=cpu --runs runs {HEADS}"


def learn_and_use(command, weights):
    """Train on c.zarr, score on its images, and ask for words that nobody knew."""
    where = () if weights is None else ("--teacher-weights", weights)
    command(f"train --cache c.zarr --student shapes-net {SHORT} --name r")
    said = command("eval --run runs/r --dataset shapes --split dev --limit 2 --json")
    assert "hIoU" in said
    image = load_dataset("shapes").split("dev")[0].read()[0]
    Image.fromarray(image).save("a.png")
    words = ("--classes", "unicorn, a green thing, sky")
    command("predict a.png --run runs/r --out out --device cpu", *words, *where)
    assert set(np.unique(np.asarray(Image.open("out/a.png")))) <= {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OWN, *tiny_transformers.KINDS, "python"])
def test_from_a_teacher_to_new_words(name, command, scheduler_here, tmp_path):
    if name in tiny_transformers.KINDS:
        teacher = tiny_transformers.folder(name, tmp_path / name)
        given, weights = ("--teacher", teacher), None
    elif name == "python":
        given, weights = ("--teacher", COLOURS), COLOURS
    else:
        given, weights = ("--teacher", name, "--pretrained", "random"), None
    command(f"cache build {SMALL} --out c.zarr --scheduler {scheduler_here}", *given, *WINDOWS)
    info = open_cache("c.zarr").manifest.teacher
    assert info.text_digest is not None
    learn_and_use(command, weights)


@pytest.mark.slow
def test_masks_by_a_teacher_of_ones_own(command, scheduler_here, tiny_teacher):
    """Masks are made anew without it, tokens being stored; in the loop it is refused, for no file may import it."""
    given = ("--teacher", tiny_teacher, "--mask-teacher", MUTE)
    command(f"cache build {SMALL} --out c.zarr --scheduler {scheduler_here}", *given, *WINDOWS)
    before = open_cache("c.zarr")
    assert before.manifest.teacher.mask_teacher.name == MUTE
    derive = f"cache derive c.zarr --out d.zarr --scheduler {scheduler_here}"
    changed = ("--set", "masks.threshold=0.3", "--teacher", tiny_teacher)
    assert "not imported because a file says so" in command(derive, *changed, refused=True)
    command(derive, *changed, "--mask-teacher", MUTE)
    after = open_cache("d.zarr")
    assert after.manifest.fingerprints["dense"] == before.manifest.fingerprints["dense"]
    assert after.manifest.fingerprints["masks"] != before.manifest.fingerprints["masks"]
    learn_and_use(command, tiny_teacher)
    online = f"train --cache c.zarr --student shapes-net {SHORT} --name o --teacher online"
    said = command(online, "--teacher-weights", tiny_teacher, refused=True)
    assert f"masks of the cache are made by code, {MUTE}" in said
    assert "--teacher cache" in said
    assert not Path("runs/o").exists()


@pytest.mark.slow
def test_a_teacher_of_ones_own_in_the_loop(command, scheduler_here):
    build = f"cache build {SMALL} --out c.zarr --scheduler {scheduler_here} --teacher {COLOURS}"
    command(build, *WINDOWS)
    online = f"train --cache c.zarr --student shapes-net {SHORT} --name o --teacher online"
    assert "not imported because a file says so" in command(online, refused=True)
    command(online, "--teacher-weights", COLOURS, "--overwrite")
