"""Methods are found by name; one of somebody's own trains like c2s's."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import plain_methods
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from tiny_cache import UNSEEN

from c2s.methods import registry
from c2s.methods.clip_to_seg import ClipToSegConfig
from c2s.methods.recipes import load_recipe, recipe_names
from c2s.runs.checkpoint import read_state
from c2s.runs.config import dump_yaml, load_config
from c2s.runs.folder import read_config
from c2s.runs.run import open_run
from c2s.students import registry as students
from c2s.students.registry import CodeError
from c2s.training import run
from c2s.training.datamodule import C2SDataModule
from c2s.training.logs import read_metrics
from c2s_cache.errors import C2SError, ConfigError

OWN = "python:plain_methods:WholeConfig"


def test_a_method_is_found_by_its_name():
    assert registry.names()[0] == registry.DEFAULT == "clip-to-seg"
    assert registry.method_class("clip-to-seg") is ClipToSegConfig
    assert registry.method_config({"tau": 0.5}) == ClipToSegConfig(tau=0.5)
    with pytest.raises(ConfigError, match=r"no method 'c2s'; choose one of clip-to-seg"):
        registry.method_class("c2s")
    with pytest.raises(ConfigError, match=r"plain_methods:Whole is no method"):
        registry.method_class("python:plain_methods:Whole")


def test_a_package_brings_a_method_by_an_entry_point(monkeypatch):
    entry = EntryPoint("whole", "plain_methods:WholeConfig", registry.GROUP)

    def entry_points(group, name="whole"):
        return [entry] if (group, name) == (registry.GROUP, "whole") else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert registry.names() == (*registry.METHODS, "whole")
    assert load_config(cache="x", settings=["method.name=whole"]).method.name == "whole"


def test_a_package_brings_a_student_by_an_entry_point(monkeypatch):
    entry = EntryPoint("whole", "plain_methods:Whole", students.GROUP)

    def entry_points(group, name="whole"):
        return [entry] if (group, name) == (students.GROUP, "whole") else []

    monkeypatch.setattr(students, "entry_points", entry_points)
    assert students.names() == (*students.NAMES, "whole")
    assert isinstance(students.create("whole", 16), plain_methods.Whole)
    with pytest.raises(ConfigError, match=r"no student 'hole'; choose one of .*, whole"):
        students.create("hole", 16)


def test_stages_of_several_methods_are_named_once():
    stages = registry.stages_of(["clip-to-seg", OWN])
    assert stages[: len(ClipToSegConfig.stages)] == ClipToSegConfig.stages
    assert {*ClipToSegConfig.beside, "views"} < set(stages)
    assert len(set(stages)) == len(stages)


def test_a_methods_defaults_stand_below_everything_else():
    config = load_config(cache="x", settings=[f"method.name={OWN}"], lr=0.5)
    assert (config.schedule, config.clip_norm, config.lr) == ("cosine", 1.0, 0.5)
    assert config.student == "python:plain_methods:Whole"
    assert load_config(cache="x").schedule == "poly"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["method.tua=1"], r"unknown key 'method.tua'"),
        (["method.tau=-1", "lr=-1"], r"lr: .*method.tau: |method.tau: .*lr: "),
        (["method.weights.dice=-1"], r"method.weights.dice: "),
        (["method.tau=yes"], r"method.tau: "),
        ([f"method.name={OWN}", "method.tau=1"], r"unknown key 'method.tau'"),
        (["method.name=gkc2"], r"no method 'gkc2'"),
    ],
)
def test_what_is_wrong_with_a_methods_settings_is_one_sentence(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(cache="x", settings=settings)


def test_a_file_imports_no_method_by_itself(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(load_config(cache="x", settings=[f"method.name={OWN}"])))
    with pytest.raises(CodeError, match=r"c\.yaml has the method python:plain_methods"):
        load_config(file)
    assert load_config(file, allow_code=True).method.name == OWN


def test_recipes_lie_in_the_methods_folder():
    assert recipe_names() == ("best", "open", "paper")
    assert recipe_names(OWN) == ()
    with pytest.raises(
        ConfigError, match=r"WholeConfig has no recipe 'paper'. .* have it.* none\."
    ):
        load_recipe("paper", OWN)
    with pytest.raises(ConfigError, match=r"^zeroseg has no recipe 'open'. clip-to-seg has it\."):
        load_recipe("open", "zeroseg")
    with pytest.raises(ConfigError, match=r"^gkc has no recipe 'x'\. Recipes of gkc: best, code"):
        load_recipe("x", "gkc")


@pytest.fixture(scope="module")
def trained(tiny_cache, tmp_path_factory):
    """A run of a method and a student of somebody's own, with averaged weights."""
    more = {"student": None, "settings": [f"method.name={OWN}"], "iterations": 6, "name": "own"}
    return run.train(
        tiny_runs.settings(tiny_cache, tmp_path_factory.mktemp("runs"), ema=0.5, **more)
    )


def test_a_method_of_ones_own_trains_and_is_opened(trained, tmp_path):
    losses = [r["loss"] for r in read_metrics(trained)]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    with pytest.raises(CodeError, match="has the method"):
        open_run(trained)
    opened = open_run(trained, allow_code=True)
    assert opened.config.method.name == OWN
    text = torch.from_numpy(opened.embeddings)
    scores = opened.student.classify(torch.zeros(2, 3, 32, 32), text)
    assert scores.shape == (2, len(text), 1, 1)
    assert len(text) > len(UNSEEN)


def test_what_never_changes_is_stored_once(trained):
    saved = load_file(trained / "frozen.safetensors")
    assert list(saved) == ["projection.weight"]
    for name in ("student", "state"):
        assert not [
            k for k in load_file(trained / f"checkpoint/{name}.safetensors") if "projection" in k
        ]
    opened = open_run(trained, allow_code=True)
    assert torch.equal(opened.student.projection.weight, saved["projection.weight"])


def test_a_run_with_frozen_parts_goes_on_to_the_bit(trained, tmp_path, monkeypatch):
    config = read_config(trained, allow_code=True)
    config = config.model_copy(update={"runs": tmp_path, "name": "cut", "checkpoint_every": 3})
    forward, calls = plain_methods.WholeMethod.forward, []

    def failing(self, *inputs):
        calls.append(1)
        if len(calls) == 4:
            raise C2SError("the fourth")
        return forward(self, *inputs)

    monkeypatch.setattr(plain_methods.WholeMethod, "forward", failing)
    with pytest.raises(C2SError, match="the fourth"):
        run.train(config)
    assert read_state(tmp_path / "cut").step == 3
    cut = run.resume(tmp_path / "cut", allow_code=True)
    for name in ("student", "state"):
        ours, whole = (load_file(p / f"checkpoint/{name}.safetensors") for p in (cut, trained))
        assert ours.keys() == whole.keys()
        assert [k for k in whole if not torch.equal(ours[k], whole[k])] == []


def test_gradients_are_clipped_together(tiny_cache, tmp_path, monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def stepping(self, closure=None):
        value = step(self, closure)
        grads = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
        norms.append(float(torch.cat(grads).norm()))
        return value

    monkeypatch.setattr(torch.optim.AdamW, "step", stepping)
    own = {"student": None, "settings": [f"method.name={OWN}"], "iterations": 2}
    run.train(tiny_runs.settings(tiny_cache, tmp_path, clip_norm=1e-3, name="low", **own))
    low = norms.copy()
    run.train(tiny_runs.settings(tiny_cache, tmp_path, clip_norm=1e3, name="high", **own))
    assert low == pytest.approx([1e-3] * 2, rel=1e-3)
    assert min(norms[2:]) > 1e-2


def test_only_a_method_that_asks_nothing_of_a_view_has_fresh_ones_without_a_teacher(
    tiny_cache, tmp_path, monkeypatch
):
    own = {"student": None, "settings": [f"method.name={OWN}"], "views": "fresh"}
    with pytest.raises(ConfigError, match="views=fresh needs teacher=online"):
        tiny_runs.settings(tiny_cache, tmp_path, **own)
    monkeypatch.setattr(plain_methods.WholeConfig, "any_view", True)
    config = tiny_runs.settings(tiny_cache, tmp_path, **own)
    batches = list(C2SDataModule(config).stream(0, 10))
    images = {image.numpy().tobytes() for batch in batches for image in batch.image}
    assert len(images) > 30  # of ten rows


def test_a_student_of_the_wrong_kind_is_refused(tiny_cache, tmp_path):
    config = tiny_runs.settings(tiny_cache, tmp_path, student="python:plain_methods:Whole")
    with pytest.raises(ConfigError, match=r"clip-to-seg trains a FeatureStudent; .*is a Whole"):
        run.build_module(config)
