"""A folded model of which a file is damaged is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from damages import damage, damages
from power_cut import Disk

from c2s.deploy import SegmentationModel, fold_run
from c2s.deploy.fold import write_model
from c2s.deploy.info import ModelError, ModelInfo
from c2s.runs.run import open_run
from c2s_cache.errors import C2SError

CASES = [(file, how) for file in ("config.json", "model.safetensors") for how in damages(file)]


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("folded") / "model"
    fold_run(open_run(folder)).save_pretrained(path)
    return path


@pytest.mark.parametrize(("file", "how"), CASES)
def test_it_is_not_loaded(model, tmp_path, file, how):
    path = shutil.copytree(model, tmp_path / "m")
    damage(path / file, how)
    with pytest.raises(C2SError) as caught:
        SegmentationModel.from_pretrained(path)
    said = str(caught.value)
    assert isinstance(caught.value, ModelError), repr(caught.value)
    assert file in said
    assert len(said) < 500
    assert "\n" not in said


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.encode("utf-16"),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace('"teacher": {', '"teacher": {"\xe9": 1, ').encode("latin-1"),
        lambda text: text.replace(
            '"teacher": {', f'"teacher": {{"x": {"[" * 900}{"]" * 900},'
        ).encode(),
        lambda text: text.replace('"crop": ', '"crop": -').encode(),
        lambda text: text.encode() + b" " * (1 << 24),
    ],
    ids=["UTF-16", "a byte order mark", "Latin-1", "nested", "negative", "huge"],
)
def test_a_configuration_of_another_form_is_refused(model, tmp_path, change):
    path = shutil.copytree(model, tmp_path / "m")
    file = path / "config.json"
    file.write_bytes(change(file.read_text(encoding="utf-8")))
    with pytest.raises(ModelError, match=r"config\.json") as caught:
        SegmentationModel.from_pretrained(path)
    assert len(str(caught.value)) < 500


EDITS = {
    "classes": lambda names: names[::-1],
    "unseen": lambda ids: [],
    "mean": lambda rgb: [0.0, *rgb[1:]],
    "crop": lambda pixels: 2 * pixels,
    "license": lambda _: "mit",
    "dataset": lambda name: name + "2",
}


@pytest.mark.parametrize("key", EDITS)
def test_an_edited_configuration_is_not_believed(model, tmp_path, key):
    """Nor are the weights of another model of the same shape, which say whose they are."""
    path = shutil.copytree(model, tmp_path / "m")
    file = path / "config.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {key: EDITS[key](facts[key])}))
    with pytest.raises(ModelError, match=r"another config\.json .*c2s fold --run RUN"):
        SegmentationModel.from_pretrained(path)
    file.write_text(json.dumps(facts, indent=1))  # how it is laid out says nothing
    SegmentationModel.from_pretrained(path)


def test_a_model_that_is_saved_again_is_as_it_is_then(model, tmp_path):
    """Of other names or with further training: what is written is written together."""
    changed = SegmentationModel.from_pretrained(model)
    names = tuple(f"{name} 2" for name in changed.config.classes)
    changed.config = changed.config.model_copy(update={"classes": names})
    changed.save_pretrained(tmp_path / "m")
    assert SegmentationModel.from_pretrained(tmp_path / "m").config.classes == names
    assert names[0] in (tmp_path / "m/README.md").read_text()


def contents(path):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in path.iterdir()}


@pytest.mark.slow
def test_a_power_cut_leaves_a_whole_model(tmp_path):
    """The new one, or the one before, under its name or the hidden one of a swap that was cut short."""
    root, out, seen = tmp_path / "all", tmp_path / "all" / "m", []
    root.mkdir()
    facts = {"student": "shapes-net", "classes": ("a", "b"), "unseen": (), "crop": 32}
    facts |= {"mean": (0, 0, 0), "std": (1, 1, 1), "dataset": "d", "iterations": 1, "license": "x"}
    facts |= {"transductive": False, "backbone": None, "versions": {}}
    facts |= {"kind": "folded", "dim": 8, "names": (("a",), ("b",))}
    facts |= {"teacher": {"name": "n", "pretrained": None, "digest": "0"}}
    model, new = (SegmentationModel(ModelInfo(**facts)).eval() for _ in range(2))
    write_model(model, out)
    before = contents(out)

    def check(disk, what):
        seen.append(contents(disk / "m" if (disk / "m").exists() else disk / ".m.old"))

    with Disk(root).watched(check, tmp_path / "scratch"):
        write_model(new, out, overwrite=True)
    after = contents(out)
    assert before["model.safetensors"] != after["model.safetensors"]
    assert [found for found in seen if found not in (before, after)] == []
    assert (seen[0], seen[-3:]) == (before, [after] * 3)
    shutil.move(out, root / ".m.old")
    with pytest.raises(ModelError, match="--overwrite"):
        write_model(new, out)
