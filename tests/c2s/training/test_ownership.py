"""A run's folder is made, replaced and trained into by one process, and no other folder is touched."""

from __future__ import annotations

import shutil

import pytest
import tiny_runs

from c2s.runs.checkpoint import RunError, saved_step
from c2s.runs.run import open_run
from c2s.training import run
from c2s.training.recorder import Recorder
from c2s_cache.errors import C2SError, ConfigError
from c2s_cache.lock import LOCK


def settings(cache, runs, **more):
    options = {"student": "shapes-net", "iterations": 2, "checkpoint_every": 1}
    return tiny_runs.settings(cache, runs, {"method": {"heads": 4}}, **(options | more))


def tree(path):
    return {str(f): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def folder(path):
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def zarr(path):
    path.mkdir()
    (path / "zarr.json").write_text('{"node_type": "group"}')


def model(path):
    path.mkdir()
    (path / "config.json").write_text("{}")


def other_run(path):
    path.mkdir()
    (path / "run.json").write_text('{"name": "another program\'s"}')


def link(path):
    folder(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def dangling(path):
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize(
    "foreign", [folder, zarr, model, other_run, link, dangling, lambda p: p.write_text("a file")]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_is_left_alone(tiny_cache, tmp_path, foreign, overwrite):
    runs = tmp_path / "runs"
    runs.mkdir()
    foreign(runs / "mine")
    before = tree(runs)
    with pytest.raises(C2SError, match=r"mine is no run, and is left as it is: .*another --name"):
        run.train(settings(tiny_cache, runs, name="mine"), overwrite)
    assert tree(runs) == before


@pytest.mark.parametrize("name", [".", "..", "", "a/b", "../x", "/tmp/x", "a\0b", "a/", "a\\b"])
def test_a_name_cannot_leave_its_folder(tiny_cache, tmp_path, name):
    with pytest.raises(ConfigError, match="name"):
        settings(tiny_cache, tmp_path, name=name)


def test_a_cache_is_no_place_for_a_run(tiny_cache, tmp_path):
    cache = shutil.copytree(tiny_cache, tmp_path / "coco.zarr")
    with pytest.raises(C2SError, match=r"coco\.zarr is no run, and is left"):
        run.train(settings(cache, tmp_path, name="coco.zarr"), True)
    assert tree(cache).keys()
    run.train(settings(cache, tmp_path))


def test_a_run_is_not_replaced_by_what_is_trained_from_it(tiny_cache, tmp_path):
    path = run.train(settings(tiny_cache, tmp_path, name="r"))
    inside = shutil.copytree(tiny_cache, path / "tiny.zarr")
    for source in ({"cache": inside}, {"self_train": path}):
        config = settings(**{"cache": tiny_cache, "runs": tmp_path, "name": "r"} | source)
        with pytest.raises(RunError, match="from which it would be trained"):
            run.train(config, True)
    assert open_run(path).step == 2


@pytest.mark.parametrize("left", [[], [LOCK]])
def test_an_empty_folder_is_taken(tiny_cache, tmp_path, left):
    (tmp_path / "r").mkdir()
    for name in left:
        (tmp_path / "r" / name).touch()
    path = run.train(settings(tiny_cache, tmp_path, name="r"))
    assert not (path / LOCK).exists()


@pytest.mark.parametrize("way", ["resume", "through a link", "overwrite"])
def test_one_process_trains_into_a_run(tiny_cache, tmp_path, monkeypatch, way):
    """By whatever path: the second is refused at once, and the first ends as if alone."""
    tried = []
    recorded = Recorder.on_train_batch_end
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    where = tmp_path / ("link" if way == "through a link" else "runs")

    def meanwhile(self, trainer, module, *rest):
        recorded(self, trainer, module, *rest)
        if module.step == 2:
            tried.append(other())

    def other():
        monkeypatch.setattr(Recorder, "on_train_batch_end", recorded)
        try:
            if way == "overwrite":
                return run.train(settings(tiny_cache, where, name="r"), True)
            return run.resume(where / "r")
        except C2SError as error:
            return error

    monkeypatch.setattr(Recorder, "on_train_batch_end", meanwhile)
    path = run.train(settings(tiny_cache, tmp_path / "runs", name="r", iterations=3))
    (refused,) = tried
    assert isinstance(refused, RunError)
    assert "Another process is training" in str(refused)
    assert saved_step(path) == 3
    assert not (path / LOCK).exists()
