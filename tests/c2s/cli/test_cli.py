"""The command line: exit codes, one-line errors, JSON keys, and what it must not import."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_cache import write_cache

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name.split(".")[0])

sys.meta_path.insert(0, Block())
from c2s.cli import main
sys.argv = ["c2s", *sys.argv[1:]]
main()
"""


def without(names: set[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run c2s in a process where the named packages cannot be imported."""
    script = BLOCKED.format(names=names)
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=300
    )


HEAVY = {
    "torch",
    "pytorch_lightning",
    "transformers",
    "open_clip",
    "dask",
    "distributed",
    "sklearn",
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("data", "list"), ("data", "show", "voc")])
def test_light_commands_import_nothing_heavy(arguments):
    done = without(HEAVY, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_cache_info_and_verify_import_nothing_heavy(tmp_path):
    path = write_cache(tmp_path / "tiny.zarr")
    light = HEAVY - {"torch"}  # methods say themselves whether the cache can train them
    done = without(light, "cache", "info", str(path), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["methods"] == ["clip-to-seg"]
    assert facts["complete"]
    assert facts["images"] == 11
    assert [q["row"] for q in facts["quarantined"]] == [2]
    assert without(light, "cache", "info", str(path)).returncode == 0
    assert without(HEAVY, "cache", "verify", str(path), "--quick").returncode == 0


@pytest.mark.slow
def test_a_plain_install_names_the_extra_that_building_needs(coco_tree):
    extra = {"open_clip", "dask", "distributed", "sklearn", "cuml"}
    done = without(extra, "cache", "build", "--dataset", "coco-stuff", "--root", str(coco_tree()))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: this command needs the Python package open_clip, which is not installed. "
        "Install it with: pip install 'c2s[build]'"
    )


def test_build_info_and_verify(c2s, coco_tree, tiny_teacher, scheduler):
    options = (
        "--scheduler",
        scheduler,
        "--teacher",
        tiny_teacher,
        "--set",
        "masks.windows=[2,3]",
        "--block-rows",
        4,
    )
    root = coco_tree()
    build = ("cache", "build", "--dataset", "coco-stuff", "--root", root, *options)
    code, out, err = c2s(*build)
    assert (code, "Traceback" in err) == (0, False), err
    assert "cache/coco.zarr: 6 images built" in out
    assert "c2s train --cache cache/coco.zarr" in out
    (root / "images/train2017/clip.mov").write_bytes(b"x")
    code, out, err = c2s(*build)
    assert code == 0
    assert "nothing to do" in out
    assert "note: 1 file is passed over, no photos by their names: 1 .mov." in err
    assert "c2s cache verify cache/coco.zarr --quick" in out
    code, out, _ = c2s(*build, "--json")
    assert json.loads(out)["built"] == 0
    assert c2s("cache", "verify", "cache/coco.zarr", "--quick")[0] == 0
    code, out, err = c2s("cache", "verify", "cache/coco.zarr", "--sample", 2, "--json")
    assert code == 1
    assert "Name its weights with --pretrained FILE" in err
    assert "c2s cache verify --quick" in err
    code, out, _ = c2s(
        *("cache", "verify", "cache/coco.zarr", "--sample", 2, "--json", "--teacher", tiny_teacher)
    )
    assert code == 0
    assert json.loads(out)["live"]["worst"]["global_cls"]["value"] > 0.9999
    code, out, err = c2s(*build, "--set", "masks.threshold=0.3")
    assert code == 1
    assert "masks.threshold: 0.9 -> 0.3" in err
    code, out, _ = c2s("cache", "info", "cache/coco.zarr")
    assert "coco-stuff/train: 6 images" in out
    for file in root.rglob("*/train2017/*3.*"):
        shutil.copy(file, file.with_stem("came"))
    code, out, err = c2s(*build)
    assert (code, "1 came to coco-stuff/train since. Add them with --append" in err) == (1, True)
    code, out, err = c2s(*build, "--append")
    assert "cache/coco.zarr: 1 images built, 6 were there already" in out
    code, out, _ = c2s("cache", "info", "cache/coco.zarr")
    assert re.search(r"  6 images in 2 blocks, finished 20\S+Z\n  1 images in 1 blocks, fin", out)
    code, out, _ = c2s("cache", "info", "cache/coco.zarr", "--json")
    assert [part["images"] for part in json.loads(out)["parts"]] == [6, 1]


def test_files_that_are_no_part_of_a_cache_are_to_be_removed(c2s, tmp_path):
    path = write_cache(tmp_path / "tiny.zarr")
    (path / "my notes.txt").write_text("x")
    (path / "masks/.DS_Store").write_text("x")
    code, _, err = c2s("cache", "verify", path, "--quick")
    assert code == 1
    assert f"rm {path}/masks/.DS_Store '{path}/my notes.txt'" in err
    assert "build" not in err


def test_verify_fails_on_damage(c2s, tmp_path):
    path = write_cache(tmp_path / "tiny.zarr")
    file = path / "masks/grid/c/1/0/0/0"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    code, out, err = c2s("cache", "verify", path, "--quick")
    assert code == 1
    assert "error: checksum: masks/grid/c/1/0/0/0: bytes differ from the receipt" in err
    assert f"{path}: 1 finding. To repair it, run the build again" in err
    assert f"--out {path} after you have deleted {path}/receipts/masks/000001.json\n" in err
    code, out, _ = c2s("cache", "verify", path, "--quick", "--json")
    assert code == 1
    assert not json.loads(out)["sound"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("cache", "build", "--dataset", "coco-stuf"), 2, "Did you mean coco-stuff?"),
        (("cache", "build", "--dataset", "coco-stuff"), 1, "Neither --root nor C2S_DATA"),
        (("cache", "build", "--dataset", "coco-stuff", "--root", "no"), 1, "there is no folder no"),
        (
            ("cache", "build", "--dataset", "coco-stuff", "--root", "."),
            1,
            "has no images of coco-stuff",
        ),
        (("cache", "build", "--dataset", "shapes", "--split", "tset"), 1, "no split 'tset'"),
        (("cache", "build", "--dataset", "shapes", "--views", "0"), 2, "views.count:"),
        (("cache", "build", "--dataset", "shapes", "--set", "masks.lambda=1"), 2, "'masks.lambda'"),
        (("cache", "build", "--dataset", "shapes", "--set", "masks"), 2, "expected key=value"),
        (("cache", "build", "--dataset", "shapes", "--config", "no.yaml"), 2, "cannot be read"),
        (
            ("cache", "build", "--dataset", "shapes", "--out", "/proc/shapes.zarr"),
            1,
            "/proc/shapes.zarr cannot be written",
        ),
        (("cache", "info", "nowhere.zarr"), 1, "is not a c2s cache (nothing is there)"),
        (("cache", "verify", "."), 1, "is not a c2s cache (no manifest in zarr.json)"),
        (("train", "--cache", "nowhere.zarr"), 1, "is not a c2s cache"),
        (("eval", "--run", "runs/none", "--dataset", "shapes"), 1, "runs/none"),
        (("data", "show", "nothing"), 2, "unknown data set 'nothing'"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_wrong_usage_is_one_sentence(c2s, arguments, code, message):
    got, _, err = c2s(*arguments)
    assert message in " ".join(err.split())
    assert got == code
    assert "Traceback" not in err
    if message != "No such command":
        assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


def test_missing_label_maps_are_counted(c2s, coco_tree, tiny_teacher):
    root = coco_tree()
    (root / "stuffthingmaps_trainval2017/train2017/000000000003.png").unlink()
    code, _, err = c2s(
        "cache", "build", "--dataset", "coco-stuff", "--root", root, "--teacher", tiny_teacher
    )
    assert code == 1
    assert "1 of 6 images of coco-stuff/train have no label map" in err
    assert "000000000003.png" in err


def test_data_root_from_environment_and_file(c2s, coco_tree, monkeypatch, tmp_path):
    root = coco_tree()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "x.png")
    from c2s.datasets import load_dataset

    c2s("data", "list")
    monkeypatch.setenv("C2S_DATA", str(root.parent))
    assert load_dataset("coco-stuff").root == root
    monkeypatch.delenv("C2S_DATA")
    (tmp_path / "c2s.yaml").write_text(f"data: {root}\n")
    assert load_dataset("coco-stuff").root == root
    (tmp_path / "c2s.yaml").write_text(f"dta: {root}\n")
    code, _, said = c2s("data", "check", "coco-stuff")
    assert code == 2
    assert "expected `data: FOLDER` and no other key, got 'dta'" in said


def test_data_show_json(c2s):
    code, out, _ = c2s("data", "show", "coco-stuff", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (len(facts["classes"]), len(facts["unseen"])) == (171, 15)
    assert [facts["classes"][i] for i in facts["unseen"][:4]] == [
        "cow",
        "giraffe",
        "suitcase",
        "frisbee",
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device.\n"),
        (OSError(errno.EFBIG, "File too large", "a/b"), "error: a/b: File too large.\n"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "error: No usable temporary directory found in ['/tmp'].\n",
        ),
    ],
)
def test_what_the_system_refuses_is_one_sentence(c2s, monkeypatch, error, said):
    """Wherever it is raised, also as a library is imported."""

    def refused(*arguments):
        raise error

    monkeypatch.setattr("c2s.methods.cost.student_cost", refused)
    assert c2s("students", "list") == (1, "", said)


@pytest.mark.parametrize("error", [OSError("a bug"), KeyError("a bug"), RuntimeError("a bug")])
def test_a_bug_of_our_own_shows_where_it_is(c2s, monkeypatch, error):
    def wrong(*arguments):
        raise error

    monkeypatch.setattr("c2s.methods.cost.student_cost", wrong)
    with pytest.raises(type(error)):
        c2s("students", "list")
