"""Runs end to end on a tiny cache of three views per image: resuming is exact, folders are safe,
nothing forbidden is imported."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import fsspec
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_runs import STEPS
from tiny_runs import stepwise as settings

from c2s.methods.clip_to_seg import method
from c2s.methods.clip_to_seg.examples import TAUGHT
from c2s.runs import tensors as tensor_files
from c2s.runs.checkpoint import RunError, saved_step
from c2s.runs.folder import read_config
from c2s.runs.run import open_run
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.testing import shapes
from c2s.text import cached_text
from c2s.training import run
from c2s.training.logs import MetricsLog, read_metrics
from c2s.training.recorder import Recorder
from c2s_cache import open_cache
from c2s_cache.errors import C2SError, ConfigError, StageMissing
from c2s_pipeline.stages.registry import closed


@pytest.mark.slow
def test_a_run_from_an_object_store_is_the_same(finished, tiny_views_cache, tmp_path):
    files, root = fsspec.core.url_to_fs("memory://bucket/tiny.zarr")
    files.put(str(tiny_views_cache), root, recursive=True)
    try:
        path = run.train(settings("memory://bucket/tiny.zarr", tmp_path, name="whole"))
    finally:
        files.rm(root, recursive=True)
    first, second = tensors(finished), tensors(path)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def tensors(path):
    files = (path / "checkpoint" / f"{name}.safetensors" for name in ("student", "state"))
    return {f"{f.stem}/{k}": v for f in files for k, v in load_file(f).items()}


def records(path):
    return [{k: v for k, v in r.items() if k != "images_per_s"} for r in read_metrics(path)]


def test_a_run_leaves_checkpoint_configuration_and_metrics(finished, tiny_views_cache):
    assert saved_step(finished) == STEPS
    assert [r["step"] for r in records(finished)] == list(range(1, STEPS + 1))
    assert all(np.isfinite(r["loss"]) for r in records(finished))
    lines = (finished / "metrics.csv").read_text().splitlines()
    assert len(lines) == STEPS + 1
    assert read_config(finished).total == STEPS
    opened = open_run(finished)
    cache = open_cache(tiny_views_cache)
    assert opened.info.classes == cache.manifest.classes
    assert np.array_equal(opened.embeddings, cached_text(cache, "all").embeddings)
    assert not opened.student.training
    assert not [f for f in finished.rglob("*") if f.suffix in (".ckpt", ".pt", ".pth", ".pkl")]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupt_and_resume_equal_an_uninterrupted_run(
    finished, tiny_views_cache, tmp_path, monkeypatch, number
):
    recorded = Recorder.on_train_batch_end

    def interrupting(self, trainer, module, *rest):
        recorded(self, trainer, module, *rest)
        if module.step == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Recorder, "on_train_batch_end", interrupting)
    before = signal.getsignal(number)
    with pytest.raises(run.Interrupted, match=r"iteration 3 of 5.*c2s train --resume") as caught:
        run.train(settings(tiny_views_cache, tmp_path, name="cut"))
    assert signal.Signals(number).name in str(caught.value)
    assert signal.getsignal(number) == before
    monkeypatch.setattr(Recorder, "on_train_batch_end", recorded)
    begun = open_run(tmp_path / "runs" / "cut")
    assert (begun.step, begun.complete) == (3, False)
    path = run.resume(tmp_path / "runs" / "cut")
    assert open_run(path).complete
    ours, whole = tensors(path), tensors(finished)
    assert ours.keys() == whole.keys()
    assert [k for k in whole if not torch.equal(ours[k], whole[k])] == []
    assert records(path) == records(finished)


class Echo:
    """An online teacher that says what the cache says, and checks what it is shown."""

    looks = ((16, "bicubic"), (24, "bicubic"))

    def __init__(self, config, manifest):
        self.asked, cache = 0, open_cache(config.cache)
        blocks = [cache.read_block(number, TAUGHT) for number in range(cache.blocks)]
        self.held = {
            (int(row), view): block.sample(i, view).arrays
            for block in blocks
            for i, row in enumerate(block.rows)
            for view in range(manifest.views)
        }

    def answer(self, views):
        for view in views:
            assert [image.shape for image in view.images] == [(16, 16, 3), (24, 24, 3)]
            assert "labels/data" in view.sample
            assert not TAUGHT & set(view.sample.arrays)
        self.asked += 1
        return [self.held[view.sample.row, view.sample.view] for view in views]


@pytest.mark.slow
def test_an_online_teacher_that_says_the_same_gives_the_same_run(
    finished, tiny_views_cache, tmp_path
):
    made = []

    def load(config, manifest):
        torch.rand(3)  # loading a model draws random numbers
        made.append(Echo(config, manifest))
        return made[-1]

    path = run.train(settings(tiny_views_cache, tmp_path, teacher="online"), load_teacher=load)
    assert [teacher.asked for teacher in made] == [STEPS]
    assert records(path) == records(finished)
    ours, whole = tensors(path), tensors(finished)
    assert [k for k in whole if not torch.equal(ours[k], whole[k])] == []
    with pytest.raises(ConfigError, match="load_teacher"):
        run.train(settings(tiny_views_cache, tmp_path, teacher="online", name="other"))


def test_resuming_a_complete_run_leaves_it_alone(finished):
    before = {f: f.stat().st_mtime_ns for f in finished.rglob("*")}
    assert run.resume(finished) == finished
    assert before == {f: f.stat().st_mtime_ns for f in finished.rglob("*")}


def test_resume_refuses_another_cache(finished):
    info = finished / "run.json"
    content = info.read_text()
    facts = read_sealed(info)
    facts["fingerprints"]["masks"] = "0"
    try:
        write_sealed(info, facts)
        with pytest.raises(RunError, match=r"not the cache .*: masks differs"):
            run.resume(finished)
    finally:
        info.write_text(content)


@pytest.mark.slow
def test_a_cache_that_has_moved_is_named_beside_the_run(tiny_views_cache, tmp_path):
    """Its content is what counts; from then on the run knows where it lies."""
    first, second = tmp_path / "first.zarr", tmp_path / "elsewhere" / "second.zarr"
    shutil.copytree(tiny_views_cache, first)
    path = run.train(settings(first, tmp_path, name="moved"))
    second.parent.mkdir()
    first.rename(second)
    with pytest.raises(RunError, match=rf"first.zarr is not there.* --resume {path} --cache PATH"):
        run.resume(path, iterations=STEPS + 1)
    run.resume(path, iterations=STEPS + 1, cache=str(second))
    assert saved_step(path) == STEPS + 1
    run.resume(path, iterations=STEPS + 2)
    assert saved_step(path) == STEPS + 2


@pytest.mark.parametrize("more", [{}, {"accumulate": 2, "batch_size": 2}])
def test_a_batch_of_one_for_a_student_with_batch_statistics_is_one_sentence(
    tiny_views_cache, tmp_path, more
):
    asked = {
        "student": "torchvision:deeplabv3_resnet50",
        "weights": "random",
        "batch_size": 1,
    } | more
    with pytest.raises(
        ConfigError, match=r"a batch of 1 of 32 pixels leaves one value .* --batch-size 2"
    ):
        run.train(settings(tiny_views_cache, tmp_path, name="one", **asked))
    assert not (tmp_path / "runs/one").exists()


def test_resume_without_a_run(tmp_path):
    with pytest.raises(RunError, match=r"not a run folder"):
        run.resume(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_views_cache, tmp_path, monkeypatch):
    scores = method.class_scores
    monkeypatch.setattr(method, "class_scores", lambda *args: scores(*args) * float("nan"))
    with pytest.raises(C2SError, match=r"loss is not finite at iteration 1\."):
        run.train(settings(tiny_views_cache, tmp_path))


def test_a_wrong_setting_leaves_no_folder_behind(tiny_views_cache, tmp_path):
    for wrong, message in (
        ({"student": "segformer-b9"}, "no student"),
        ({"settings": ["method.heads=5"]}, "heads=5"),
        ({"weights": str(tmp_path / "nowhere")}, "no encoder weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            run.train(settings(tiny_views_cache, tmp_path, **wrong))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (0, r"run folder .* cannot be made \(.*No space left"),
        (1, r"iteration 2 cannot .*Make room there\. There is no checkpoint yet: .*--overwrite"),
        (3, r"iteration 2 cannot .*Make room there\. There is no checkpoint yet: .*--overwrite"),
        (4, r"iteration 4 cannot .*Make room there\. The checkpoint of iteration 2 .*--resume"),
        pytest.param(
            5,
            r"iteration 4 cannot .*Make room there\. The checkpoint of iteration 2 .*--resume",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(
    tiny_views_cache, tmp_path, monkeypatch, room, message
):
    """With room for so many files: the text, the halfway student, then two for each checkpoint."""
    written = []

    def save(values, file, metadata):
        if len(written) == room:
            raise SafetensorError("I/O error: No space left on device")
        written.append(file)
        save_file(values, file, metadata)

    monkeypatch.setattr(tensor_files, "save_file", save)
    with pytest.raises(C2SError, match=message):
        run.train(settings(tiny_views_cache, tmp_path, name="full"))
    path = tmp_path / "runs" / "full"
    assert path.exists() == (room > 0)
    if room > 3:
        assert open_run(path).step == 2
        assert sorted(f.name for f in path.glob("checkpoint*")) == ["checkpoint"]
        monkeypatch.undo()
        assert saved_step(run.resume(path)) == STEPS


def test_records_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(1, 5):
        log.log_metrics({"loss": step / 3}, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    log = MetricsLog(tmp_path, start=2)
    log.log_metrics({"loss": 9.0}, 3)
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [
        (1, 0.333333333),
        (2, 0.666666667),
        (3, 9.0),
    ]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4


PROBE = '''
import sys
class Without:
    """A module finder for a machine on which these packages are not installed."""
    hidden = {"open_clip", "dask", "distributed", "sklearn", "cuml", "c2s_pipeline"}
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *where):
        absent = name.split(".")[0] in self.hidden
        return None if absent else self.finder.find_spec(name, *where)
sys.meta_path[:] = [Without(f) for f in sys.meta_path if hasattr(f, "find_spec")]
from pathlib import Path
from c2s.runs.config import load_config
from c2s.training.run import train
from c2s.training.recorder import Recorder
from c2s.runs.run import open_run
import c2s.evaluation.evaluate
path = train(load_config(cache=Path(sys.argv[1]), runs=Path(sys.argv[2]), student="segformer-b0",
                         iterations=1, batch_size=2, workers=0, accelerator="cpu"))
open_run(path)
print(path)
'''


@pytest.mark.slow
def test_training_needs_neither_clip_nor_dask(tiny_cache, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tiny_cache), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "segformer-b0-tiny-seed0")


def test_a_cache_of_another_method_says_whose_it_is(tmp_path):
    cache = shapes.shapes_cache(closed(("labels", "segments", "views", "text", "words")))
    config = settings(str(cache.path), tmp_path)
    with pytest.raises(StageMissing, match="lacks the stages global_cls, masks, regions") as error:
        run.train(config)
    assert error.value.hint.startswith("It can train gkc (c2s train --method gkc). Make a cache")
    none = shapes.shapes_cache(closed(("labels", "views")))
    with pytest.raises(StageMissing) as error:
        run.train(settings(str(none.path), tmp_path))
    assert error.value.hint.startswith("Make a cache")


def test_a_student_of_another_method_says_which_one_suits_the_data_set(tmp_path):
    cache = shapes.shapes_cache(closed(("labels", "segments", "views", "text", "words")))
    config = settings(str(cache.path), tmp_path, method={"name": "gkc"})
    with pytest.raises(ConfigError, match=r"gkc trains a QueryStudent; .*is a SegFormer") as error:
        run.build_module(config)
    assert error.value.hint == "Leave --student out: its default here is mask2former:shapes."
