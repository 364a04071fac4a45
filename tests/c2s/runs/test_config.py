"""Run configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_cache import tiny_manifest

from c2s.runs.config import dump_yaml, load_config
from c2s_cache.errors import ConfigError


def of(dataset, rows=11, **more):
    """Manifest of a cache of a data set."""
    return tiny_manifest(rows).model_copy(update={"dataset": dataset, **more})


def test_epochs_are_passes_over_the_images_of_the_cache():
    config = load_config(cache=Path("x"), epochs=2.5, batch_size=4)
    assert config.resolved(of("voc", rows=11)).total == 7  # 27.5 images
    assert config.resolved(of("voc", rows=11)).epochs is None
    assert load_config(cache=Path("x"), epochs=2, iterations=3).resolved(of("voc")).total == 3


def test_resolved_configuration_survives_yaml(tmp_path):
    config = load_config(cache=Path("a/coco.zarr"), settings=["method.tau=0.05"])
    config = config.resolved(of("voc", view_size=64))
    assert (config.iterations, config.warmup, config.image_size) == (20_000, 1500, 64)
    assert config.run_name == "segformer-b4-coco-seed0"
    (tmp_path / "c.yaml").write_text(dump_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("dataset", "iterations"), [("voc", 20_000), ("context", 40_000), ("coco-stuff", 80_000)]
)
def test_the_papers_schedules(dataset, iterations):
    assert load_config(cache=Path("x")).resolved(of(dataset)).total == iterations


def test_short_runs_warm_up_for_a_tenth():
    assert load_config(cache=Path("x"), iterations=200).resolved(of("voc")).warmup == 20


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_size": 11}, []),
        ({"batch_size": 12}, ["a batch of 12 is more than the 11 images of the cache"]),
        ({"warmup": 39}, []),
        ({"warmup": 40}, ["the warm-up of 40 iterations outlasts the run of 40: .* 0.002"]),
        ({"batch_size": 1200, "warmup": 6255}, ["a batch of 1,200 is", "warm-up of 6,255 iter"]),
    ],
)
def test_what_is_hardly_meant_is_said(given, says):
    config = load_config(cache=Path("x"), iterations=40, lr=2e-3, **{"batch_size": 4, **given})
    found = config.doubts(of("voc", rows=11))
    assert len(found) == len(says)
    for sentence, said in zip(found, says, strict=True):
        assert re.search(said, sentence)
    trial = load_config(cache=Path("x"), iterations=19, batch_size=4, warmup=30)
    assert not trial.doubts(of("voc", rows=11))
    # Each of several views of an image is another input.
    assert not load_config(cache=Path("x"), batch_size=22).doubts(tiny_manifest(11, views=2))


def test_settings_and_options_override_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "cache: x\nlr: 1.0\nmethod: {tau: 0.5, latent_embedding: false}\n"
    )
    config = load_config(tmp_path / "c.yaml", ["method.tau=0.2", "lr=2e-4"], seed=3)
    assert (config.method.tau, config.method.latent_embedding, config.lr, config.seed) == (
        0.2,
        False,
        2e-4,
        3,
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.tua=1", "method.tua"),
        ("lr=-1", "lr"),
        ("precision=8-bit", "precision"),
        ("tau", "key=value"),
        ("views=fresh", "teacher=online"),
        ("teacher_weights=own.pt", "teacher_weights has no effect without teacher=online"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(cache=Path("x"), settings=[setting])
