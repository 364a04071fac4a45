"""Module and data module with a plain Lightning Trainer and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from tiny_cache import write_cache

from c2s.runs.config import TrainConfig
from c2s.training.datamodule import C2SDataModule
from c2s.training.run import build_module
from c2s_cache.errors import ConfigError

PAGE = Path(__file__).parents[3] / "docs/training.md"

pytestmark = [  # Lightning's hints
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def parts(cache, **more):
    options = {"student": "shapes-net", "iterations": 4, "batch_size": 4, "workers": 0}
    method = {"heads": 4}
    config = TrainConfig(cache=cache, method=method, log_every=1, **(options | more))
    return build_module(config), C2SDataModule(config)


def trainer(folder, steps, **more):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(max_steps=steps, accelerator="cpu", default_root_dir=folder, **quiet, **more)


def same(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_lightnings_own_checkpoint_resumes_to_the_bit(tiny_views_cache, tmp_path):
    """Its file is read without unpickling anything but tensors."""
    more = {"ema": 0.9, "accumulate": 2}
    whole, data = parts(tiny_views_cache, **more)
    trainer(tmp_path, 4, accumulate_grad_batches=2).fit(whole, data)
    cut, data = parts(tiny_views_cache, **more)
    first = trainer(tmp_path, 3, accumulate_grad_batches=2)
    first.fit(cut, data)
    assert not same(cut, whole)
    first.save_checkpoint(tmp_path / "cut.ckpt")
    again, data = parts(tiny_views_cache, seed=0, **more)
    second = trainer(tmp_path, 4, accumulate_grad_batches=2)
    second.fit(again, data, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert second.global_step == 4
    assert same(again, whole)


def test_the_module_brings_its_log(tiny_cache, tmp_path):
    from pytorch_lightning.loggers import CSVLogger

    module, data = parts(tiny_cache)
    log = CSVLogger(tmp_path)
    trainer(tmp_path, 4, logger=log).fit(module, data)
    lines = (Path(log.log_dir) / "metrics.csv").read_text().splitlines()
    assert len(lines) == 5
    assert {"loss", "focal", "lr0", "images_per_s", "step"} <= set(lines[0].split(","))


def test_a_trainer_that_does_not_fit_is_one_sentence(tiny_cache, tmp_path):
    module, data = parts(tiny_cache)
    with pytest.raises(ConfigError, match="max_steps"):
        trainer(tmp_path, -1, max_epochs=1).fit(module, data)
    module, data = parts(tiny_cache)
    with pytest.raises(ConfigError, match="accumulates 2 batches, the configuration 1"):
        trainer(tmp_path, 4, accumulate_grad_batches=2).fit(module, data)


@pytest.mark.slow
def test_the_readme_block_trains(tmp_path, monkeypatch):
    """The block of docs/training.md, word for word."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [b for b in blocks if "C2SDataModule" in b]
    assert len(block.splitlines()) < 10
    write_cache(tmp_path / "cache" / "voc.zarr")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["module"].step == names["config"].iterations


def test_batches_without_a_trainer_are_one_sentence(tiny_cache):
    _, data = parts(tiny_cache)
    with pytest.raises(ConfigError, match="has none yet") as caught:
        data.train_dataloader()
    assert "data.stream(0, N)" in str(caught.value)
    assert len(list(data.stream(0, 3))) == 3
