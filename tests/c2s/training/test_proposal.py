"""What is proposed where nobody has chosen, and that what is said of memory and time follows from a trial."""

from __future__ import annotations

import pytest
import tiny_runs
from tiny_cache import write_cache

from c2s.methods.registry import method_class
from c2s.runs.config import load_config
from c2s.training import proposal, trial
from c2s.training.proposal import OPEN, needs_trial, plan_training, without_trial
from c2s.training.trial import Trial, try_training
from c2s_cache import open_cache

GIB = 2**30


def tried(available, seconds=4.0):
    """Half a gibibyte and one for each image, and so many seconds for two images, a quarter of them for each more."""
    return Trial(seconds, 5 * GIB // 2, seconds / 4, GIB, available and int(available * GIB))


@pytest.fixture
def plan(tiny_cache, monkeypatch):
    """A plan of the defaults, on a machine and a trial that are made up."""

    def made(found, gpu=False, free=OPEN, **options):
        monkeypatch.setattr(proposal, "on_gpu", lambda config: gpu)
        monkeypatch.setattr(proposal, "try_training", lambda config, cache: found)
        return plan_training(load_config(cache=tiny_cache, **options), open_cache(tiny_cache), free)

    return made


@pytest.mark.parametrize(("available", "batch"), [(24, 8), (10.7, 8), (10.6, 4), (6, 4), (5, 2)])
def test_a_cpu_gets_the_largest_batch_that_fits(plan, available, batch):
    """8.5 GiB of 80 % of the memory, 4.5, or the smallest."""
    found = plan(tried(available))
    config = found.config
    assert (config.student, config.batch_size, config.workers) == ("segformer-b0", batch, 0)
    assert found.bytes == int((batch + 0.5) * GIB)
    assert found.fits
    assert found.seconds == 4 + batch - 2
    assert found.hours == pytest.approx(config.total * found.seconds / 3600)


def test_nothing_is_tried_where_all_that_a_trial_could_tell_is_said(tiny_cache, monkeypatch):
    """What follows from the machine alone is chosen as a plan chooses it."""
    config = load_config(cache=tiny_cache, iterations=3, batch_size=2)
    free = OPEN - {"iterations", "batch_size"}
    monkeypatch.setattr(proposal, "try_training", None)
    for gpu, tries in ((False, False), (True, True)):
        monkeypatch.setattr(proposal, "on_gpu", lambda config, gpu=gpu: gpu)
        assert needs_trial(config, free) == tries
        assert needs_trial(config, free | {"iterations"})
        assert not needs_trial(config, free - {"accumulate"})
    assert without_trial(config, free) == {}
    monkeypatch.setattr(proposal, "on_gpu", lambda config: False)
    assert needs_trial(config, OPEN - {"iterations"})
    found = without_trial(config, free)
    assert (found["student"], found["workers"]) == ("segformer-b0", 0)
    assert [sentence.split()[0] for sentence in found["proposed"]] == ["student", "workers"]
    assert without_trial(config, free - {"student", "workers"}) == {}


def test_what_does_not_fit_is_said(plan):
    assert not plan(tried(2)).fits
    unknown = plan(tried(None))
    assert (unknown.fits, unknown.config.batch_size) == (True, 2)


def test_a_schedule_is_of_the_data_and_ends_in_a_night(plan, monkeypatch):
    """200 passes over 11 images, or 12 hours, but 100 iterations; a method's schedule for a data set has its passes."""
    assert plan(tried(24)).config.total == 275
    assert plan(tried(24, seconds=200.0)).config.total == 100
    assert plan(tried(24), gpu=True).config.total == 138
    known = {"tiny": {"iterations": 4_000}}
    monkeypatch.setattr(method_class("clip-to-seg"), "by_dataset", known)
    assert plan(tried(24)).config.total == 4_000
    monkeypatch.undo()
    monkeypatch.setattr(proposal, "PASSES", 10_000)
    assert plan(tried(24)).config.total == round(12 * 3600 / 10)
    assert plan(tried(24, seconds=1e-3)).config.total == 13_750
    assert plan(tried(24, seconds=1e-3), gpu=True).config.total == 6_875


def test_what_was_chosen_is_written_down_with_its_reason(plan):
    found = plan(tried(24))
    assert found.config.proposed == found.settings["proposed"]
    keys = [sentence.split()[0] for sentence in found.config.proposed]
    assert keys == ["student", "workers", "batch_size", "iterations"]
    assert found.config.proposed[2] == "batch_size 8: 8.5 GiB of 24.0 GiB memory."


@pytest.mark.parametrize("key", sorted(OPEN))
def test_what_somebody_has_chosen_is_left_alone(plan, key):
    value = {"student": "segformer-b4"}.get(key, 1)
    found = plan(tried(24), free=OPEN - {key}, **{key: value})
    assert getattr(found.config, key) == value
    assert key not in found.settings
    whole = plan(tried(24), free=())
    assert (whole.settings, whole.config.proposed) == ({}, ())
    assert (whole.config.student, whole.config.total) == ("segformer-b4", 20_000)


def test_the_defaults_stay_on_a_gpu_where_they_fit(plan):
    """Else the batch is computed in parts, and stays what it is."""
    for available, parts in ((24, 1), (15, 2), (6, 4), (4, 8), (2, 16)):
        config = plan(tried(available), gpu=True).config
        assert (config.student, config.batch_size, config.workers) == ("segformer-b4", 16, 4)
        assert config.accumulate == parts, available


@pytest.mark.slow
def test_a_trial_measures_what_a_training_takes(tmp_path, monkeypatch):
    """The second size is left out where it might not fit, and counted as if nothing were shared."""
    cache = open_cache(write_cache(tmp_path / "a.zarr"))
    config = tiny_runs.settings(cache.path, tmp_path, student="shapes-net", method={"heads": 4})
    config = config.resolved(cache.manifest)
    found = try_training(config, cache)
    assert found.seconds > 0
    assert found.bytes > 1 << 20
    assert found.available is not None
    monkeypatch.setattr(trial, "_available", lambda device: 1 << 20)
    few = try_training(config, cache)
    assert (few.more_bytes, few.more_seconds) == (few.bytes // 2, few.seconds / 2)
    assert few.available == 1 << 20


def test_a_container_has_less_than_its_machine(tmp_path, monkeypatch):
    """And what the process holds by now is there for it."""
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   50 kB\n", encoding="utf-8")
    (tmp_path / "status").write_text("VmRSS:\t  7 kB\nVmHWM:\t 9 kB\n", encoding="utf-8")
    for name, file in (("MEMORY", "meminfo"), ("STATUS", "status"), ("GROUP", "")):
        monkeypatch.setattr(trial, name, tmp_path / file)
    device = trial.torch.device("cpu")
    assert trial._available(device) == 57 * 1024
    (tmp_path / "memory.current").write_text("1024\n", encoding="utf-8")
    for text, kib in (("max\n", 57), ("20480\n", 26), ("999999999\n", 57)):
        (tmp_path / "memory.max").write_text(text, encoding="utf-8")
        assert trial._available(device) == kib * 1024, text
