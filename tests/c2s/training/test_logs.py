"""Loggers: metrics files with every key, and Weights & Biases without a network."""

from __future__ import annotations

import csv

import pytest

from c2s.runs.config import load_config
from c2s.training import logs, run
from c2s.training.logs import MetricsLog, read_metrics
from c2s_cache.errors import C2SError, ConfigError, MissingExtra


def settings(cache, runs, **more):
    options = {
        "cache": cache,
        "student": "shapes-net",
        "iterations": 1,
        "batch_size": 2,
        "workers": 0,
        "accelerator": "cpu",
        "runs": runs,
    }
    return load_config(defaults={"method": {"heads": 4}}, **(options | more))


def test_the_table_has_a_column_for_every_key(tmp_path):
    log = MetricsLog(tmp_path)
    log.log_metrics({"loss": 3.0}, 1)
    log.log_metrics({"val/sIoU": 40.0}, 1)
    log.log_metrics({"loss": 2.0}, 2)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 1, 2]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(r["step"], r["loss"], r["val/sIoU"]) for r in table] == [
        ("1", "3.0", ""),
        ("1", "", "40.0"),
        ("2", "2.0", ""),
    ]


def test_tensorboard_is_there_unless_it_is_not_asked_for(tiny_cache, tmp_path):
    path = run.train(settings(tiny_cache, tmp_path, name="with"))
    assert list((path / "tensorboard").glob("events*"))
    path = run.train(settings(tiny_cache, tmp_path, name="without", loggers=()))
    assert not (path / "tensorboard").exists()


def test_a_missing_wandb_is_one_line_and_no_folder(tiny_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'c2s\[wandb\]'"):
        run.train(settings(tiny_cache, tmp_path / "runs", loggers=("wandb",)))
    assert not (tmp_path / "runs").exists()


def test_wandb_without_a_login_is_one_line_and_no_folder(tiny_cache, tmp_path, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    with pytest.raises(ConfigError, match=r"wandb login.*WANDB_MODE=offline"):
        run.train(settings(tiny_cache, tmp_path / "runs", loggers=("wandb",)))
    assert not (tmp_path / "runs").exists()


def test_a_logger_that_fails_to_begin_leaves_no_folder(tiny_cache, tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise RuntimeError("run is in use")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", refuse)
    config = settings(tiny_cache, tmp_path, loggers=("wandb",), name="new")
    with pytest.raises(
        C2SError, match=r"does not begin the run: run is in use.*start the run again"
    ):
        run.train(config)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_wandb_works_offline_and_keeps_its_id(tiny_cache, tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    path = run.train(settings(tiny_cache, tmp_path, loggers=("wandb",)))
    wandb.teardown()  # a process of its own writes the file, and may do so after the run has finished
    (folder,) = (path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()
    assert folder.name.endswith((path / "wandb-id").read_text())
    for word in (b"images_per_s", b"focal", b"shapes-net"):
        assert word in content
