"""Who the processes of a run are: one, or several by a launcher; and what is said when one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.rank_zero import rank_zero_only

from c2s.training import RANKS as RANKS_AT_IMPORT
from c2s.training import run
from c2s.training.logs import read_metrics
from c2s.training.processes import OneProcess, Slurm, cluster_environment, first_process
from c2s_cache.errors import ConfigError

TASK = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "n1",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "LSB_", "JSM_", "MASTER_", "C2S_STARTER")
RANKS = {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE"}


@pytest.fixture
def environment(monkeypatch):
    """Replace what launchers have put into the environment; the program is a file, whoever runs the tests."""
    monkeypatch.setattr(sys, "argv", [__file__])
    for name in os.environ:
        if name in RANKS or name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)

    def replace(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return replace


def several(devices=2, nodes=1):
    return tiny_runs.settings("x.zarr", "runs", devices=devices, nodes=nodes)


PROGRAM = """
import os, sys
from c2s.training import RANKS, run
import torchmetrics
import tiny_runs
assert [os.environ[name] for name in RANKS] == ["abc", "", "1.5", "-"], os.environ
options = {"student": "shapes-net", "iterations": 1, "devices": int(sys.argv[3])}
run.train(tiny_runs.settings(sys.argv[1], sys.argv[2], {"method": {"heads": 4}}, name="r", **options))
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_ranks_that_are_no_numbers_matter_to_several_processes_alone(
    tiny_cache, tmp_path, environment, devices
):
    environment(dict(zip(RANKS_AT_IMPORT, ("abc", "", "1.5", "-"), strict=True)))
    environment({"PYTHONPATH": str(Path(tiny_runs.__file__).parent)})
    words = [sys.executable, "-c", PROGRAM, str(tiny_cache), str(tmp_path), str(devices)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    if devices == 1:
        assert done.returncode == 0, done.stderr
        assert len(read_metrics(tmp_path / "r")) == 1
    else:
        assert "ConfigError: devices=2 nodes=1 is 2 processes, which does not fit" in done.stderr
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"RANK": "1"},
        {"LOCAL_RANK": "1"},
        {"SLURM_PROCID": "3"},
        {"JSM_NAMESPACE_RANK": "2"},
        TASK,
        TASK | {"SLURM_NTASKS_PER_NODE": "4"},
        TORCHRUN,
        {"MASTER_PORT": "abc", "WORLD_SIZE": "many"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_run_of_one_process_writes_all_it_has_to_say(
    tiny_cache, tmp_path, environment, monkeypatch, values
):
    environment(values)
    # As Lightning sets it when it is imported in such an environment.
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    options = {"student": "shapes-net", "iterations": 2, "loggers": ("tensorboard",)}
    config = tiny_runs.settings(tiny_cache, tmp_path, {"method": {"heads": 4}}, **options)
    assert first_process(config)
    path = run.train(config)
    assert [r["step"] for r in read_metrics(path)] == [1, 2]
    assert list((path / "tensorboard").glob("events*"))
    assert {name: os.environ[name] for name in values} == values


def test_several_processes_are_those_of_the_launcher(environment):
    environment({})
    assert isinstance(cluster_environment(several(1)), OneProcess)
    assert type(cluster_environment(several())) is LightningEnvironment
    environment(TASK)  # without --ntasks-per-node
    found = cluster_environment(several(4))
    assert isinstance(found, Slurm)
    assert (found.global_rank(), found.world_size(), found.auto_requeue) == (2, 4, False)
    environment(TORCHRUN)
    assert isinstance(cluster_environment(several()), TorchElasticEnvironment)


@pytest.mark.parametrize(
    ("values", "config", "message"),
    [
        ({}, several(1, 2), "nodes=2 needs a launcher"),
        ({"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}, several(1, 2), "nodes=2 needs a launcher"),
        ({"MASTER_PORT": "abc"}, several(), "abc"),
        ({"MASTER_PORT": "70000"}, several(), "port 70000"),
        ({"LOCAL_RANK": "0"}, several(), "'MASTER_ADDR' is missing"),
        (TORCHRUN | {"WORLD_SIZE": "3"}, several(), "3 processes|world size"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, several(), "process 2 of node 0"),
        (TASK, several(), "4 processes"),
        (TASK | {"SLURM_NTASKS_PER_NODE": "2"}, several(4), "ntasks-per-node"),
        (TASK | {"SLURM_NTASKS": "four"}, several(4), "four"),
    ],
    ids=str,
)
def test_a_launcher_that_does_not_fit_is_refused(environment, values, config, message):
    environment(values)
    with pytest.raises(ConfigError, match=message):
        cluster_environment(config)


def test_nodes_may_be_started_by_hand(environment):
    environment({"MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "NODE_RANK": "1"})
    assert cluster_environment(several(1, 2)).node_rank() == 1


def c2s_train(cache, tmp_path, **more):
    settings = {
        "batch_size": 4,
        "workers": 0,
        "log_every": 1,
        "loggers": "[]",
        "accelerator": "cpu",
    }
    settings |= {"devices": 2, "student": "shapes-net", "method.heads": 4, **more}
    where = ["--cache", cache, "--runs", tmp_path, "--name", "cut"]
    options = [f"--set={key}={value}" for key, value in settings.items()]
    return [*map(str, where), *options]


def start(command, **options):
    return subprocess.Popen(
        command,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(process, words):
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it ended before it said {words!r}")


def helper_of(pid):
    (found,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return int(found)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "helper"])
def test_a_process_that_is_killed_is_one_sentence(tiny_cache, tmp_path, victim):
    program = Path(sys.executable).parent / "c2s"
    settings = c2s_train(tiny_cache, tmp_path, iterations=500, checkpoint_every=2)
    process = start([program, "train", *settings])
    wait_for(process, "train 3/")
    helper = helper_of(process.pid)
    os.kill(process.pid if victim == "first" else helper, signal.SIGKILL)
    err = process.communicate(timeout=120)[1]  # to its end, which is that of both processes
    assert process.returncode == (-signal.SIGKILL if victim == "first" else 1)
    (sentence,) = [line for line in err.splitlines() if not line.startswith("train ")]
    assert sentence.startswith("error: The training cannot go on: ")
    assert sentence.endswith(f"c2s train --resume {tmp_path / 'cut'}")


@pytest.mark.slow
def test_a_signal_to_all_processes_is_one_sentence(tiny_cache, tmp_path):
    program = Path(sys.executable).parent / "c2s"
    settings = c2s_train(tiny_cache, tmp_path, iterations=500, workers=1)
    process = start([program, "train", *settings], start_new_session=True)
    wait_for(process, "train 3/")
    os.killpg(process.pid, signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    (sentence,) = [line for line in err.splitlines() if not line.startswith("train ")]
    assert sentence.startswith("error: Stopped by SIGINT at iteration ")
    assert process.returncode == 130


@pytest.mark.slow
def test_a_program_from_standard_input_is_refused_at_once(tiny_cache, tmp_path):
    program = f"""
from c2s.runs.config import load_config
from c2s.training.run import train
train(load_config(cache={str(tiny_cache)!r}, runs={str(tmp_path / "runs")!r}, devices=2,
                  batch_size=4, student="shapes-net", iterations=2, accelerator="cpu"))
"""
    done = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "ConfigError" in done.stderr
    assert "standard input" in done.stderr
    assert not (tmp_path / "runs").exists()
