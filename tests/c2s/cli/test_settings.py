"""Settings of eval, predict and fold: a file, above it --set, above it options; help says the defaults."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from pydantic import ValidationError

from c2s.cli import app
from c2s.cli.build_report import report_build
from c2s.cli.settings import EvalConfig, FoldConfig, PredictConfig, settled
from c2s.cli.train import _say_unlike
from c2s.config import gathered, require_said_once
from c2s.runs.config import TrainConfig
from c2s_cache.errors import ConfigError

MODELS = {"eval": EvalConfig, "predict": PredictConfig, "fold": FoldConfig}


def test_options_stand_above_set_above_the_file(tmp_path):
    file = tmp_path / "eval.yaml"
    file.write_text("run: r\ndataset: voc\nsplit: train\nmode: whole\nseen_offset: [0.1, 0.2]\n")
    got = settled(EvalConfig, file, ["split=dev", "limit=3"], {"dataset": "shapes", "json_": True})
    assert (got.run, got.dataset, got.split, got.mode) == (Path("r"), "shapes", "dev", "whole")
    assert (got.seen_offset, got.limit) == ((0.1, 0.2), 3)
    ranged = settled(EvalConfig, file, (), {"seen_offset": "0:0.1:0.05"})
    assert ranged.seen_offset == (0.0, 0.05, 0.1)
    with pytest.raises(ValidationError):
        got.mode = "slide"
    with pytest.raises(ConfigError, match="unknown key 'modes'"):
        settled(EvalConfig, file, ["modes=slide"], {})
    with pytest.raises(ConfigError, match=r"limit: .*greater than 0 \(got 0\)"):
        settled(EvalConfig, file, (), {"limit": 0})


def test_what_has_no_default_is_asked_for():
    with pytest.raises(ConfigError, match="Missing option '--run'") as caught:
        settled(EvalConfig, None, (), {"dataset": "voc"})
    assert caught.value.exit_code == 2
    assert settled(EvalConfig, None, ["run=r"], {"dataset": "voc"}).run == Path("r")


def test_a_setting_is_said_once():
    options = {"mode": "whole", "limit": None, "masks": {"threshold": 0.5}}
    require_said_once(["limit=3", "masks.windows=[3]", "modes=x", "mode.x=1"], options)
    for setting in ("mode=slide", " mode =slide", "masks.threshold=0.9"):
        with pytest.raises(ConfigError, match="leave one of them out"):
            require_said_once([setting], options)
    with pytest.raises(ConfigError, match="both say mode; leave one"):
        settled(EvalConfig, None, ["mode=slide"], {"run": "r", "dataset": "d", "mode": "whole"})


@pytest.mark.parametrize("command", MODELS)
def test_every_setting_is_an_option_whose_help_is_the_models(command):
    params = {p.name.rstrip("_"): p for p in typer.main.get_command(app).commands[command].params}
    for name, field in MODELS[command].model_fields.items():
        help_ = params[name].help
        assert help_.lower().startswith(field.description.lower())
        if field.default not in (None, False) and not field.is_required():
            assert help_.endswith(f" [default: {field.default}].")


def test_the_help_of_train_says_the_defaults_of_its_configuration():
    """They are written out there: the configuration needs torch, which help does without."""
    params = {p.name: p for p in typer.main.get_command(app).commands["train"].params}
    said = []
    for name, field in TrainConfig.model_fields.items():
        if name in params and isinstance(field.default, str | int | Path):
            assert params[name].help.endswith(f" [default: {field.default}]."), name
            said.append(name)
    assert {"student", "batch_size", "seed", "runs", "workers", "teacher"} <= set(said)


def test_a_cache_unlike_its_recipe_is_said_with_a_command_that_a_shell_takes(tiny_cache, capsys):
    looks = ["frame-zero", "box-none"]
    want = {"masks": {"threshold": 0.4321}, "regions": {"looks": looks}}
    _say_unlike(want, "open", str(tiny_cache))
    said = capsys.readouterr().err
    assert "regions.looks=['frame-zero', 'box-none'] (here not recorded)" in said
    words = shlex.split(said.partition("c2s cache derive ")[2])
    settings = words[words.index("--set") :]
    assert words[:3] == [str(tiny_cache), "--out", "NEW"]
    assert settings[::2] == ["--set"] * (len(settings) // 2)
    said = gathered({}, None, settings[1::2], {})
    assert said == {"masks": {"threshold": "0.4321"}, "regions": {"looks": looks}}
    _say_unlike({"cells": {"scales": [2]}}, "open", str(tiny_cache))  # it lacks the stage
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("recipe", "more"), [(None, ""), ("open", " --recipe open")])
def test_what_a_build_advises_has_its_recipe(tiny_cache, recipe, more, capsys):
    report = SimpleNamespace(path=Path(tiny_cache), computed={}, rows=11)
    report_build(report, False, recipe)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("Train from it with: c2s train --cache ")
    assert said.endswith(f"tiny.zarr{more}")


@pytest.mark.parametrize(
    ("methods", "first", "others"),
    [
        (["clip-to-seg", "gkc", "zeroseg"], "tiny.zarr", "gkc and zeroseg as well: --method gkc"),
        (["clip-rc", "gkc"], "tiny.zarr --method clip-rc", "gkc as well: --method gkc"),
    ],
)
def test_a_build_says_all_methods_that_its_cache_can_train(
    tiny_cache, methods, first, others, monkeypatch, capsys
):
    monkeypatch.setattr("c2s.cli.build_report.methods_of", lambda manifest: methods)
    report_build(SimpleNamespace(path=Path(tiny_cache), computed={}, rows=11), False)
    *_, said, further = capsys.readouterr().out.splitlines()
    assert said.endswith(first)
    assert further == f"It can train {others}"
