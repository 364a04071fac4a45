"""Real trainings with loader processes, ended by every signal that terminals and batch systems send."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from c2s.runs.checkpoint import read_state
from c2s.training.logs import read_metrics
from c2s.training.signals import ENDING, Interrupted, StopRequest, deaf

C2S = str(Path(sys.executable).parent / "c2s")
STEPS = 60
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


def start(cwd, *arguments, environment=()):
    return subprocess.Popen(
        [C2S, "train", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **dict(environment)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def new_run(cache, runs, name):
    settings = {"iterations": STEPS, "batch_size": 4, "workers": 2, "log_every": 1, "loggers": "[]"}
    options = [f"--set={key}={value}" for key, value in settings.items()]
    where = ["--cache", cache, "--runs", runs, "--name", name]
    return ["--student", "shapes-net", *where, "--set=accelerator=cpu", *options]


def reach(process, step):
    """Wait until the training says that it has done so many iterations."""
    for line in process.stderr:
        if line.startswith(f"train {step}/"):
            return
    pytest.fail(f"it ended before iteration {step}")


def rest(process):
    """Exit code, and what it says that is no progress."""
    _, err = process.communicate(timeout=120)
    return process.returncode, [line for line in err.splitlines() if not line.startswith("train ")]


def tensors(run):
    files = (run / "checkpoint" / f"{name}.safetensors" for name in ("student", "state"))
    return {f"{f.stem}/{k}": v for f in files for k, v in load_file(f).items()}


def records(run):
    return [{k: v for k, v in r.items() if k != "images_per_s"} for r in read_metrics(run)]


@pytest.fixture(scope="module")
def whole(tiny_views_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    assert rest(start(folder, *new_run(tiny_views_cache, folder, "whole"))) == (0, [])
    return folder / "whole"


def cut(cache, tmp_path, number, send):
    """A run that `send` has given a signal after two iterations or more; checks what it leaves and says."""
    cwd, run = tmp_path / "cwd", tmp_path / "cut"
    for mine in ("checkpoint", "checkpoint.new", "checkpoint.old"):
        (cwd / mine).mkdir(parents=True)
        (cwd / mine / "mine").touch()
    held = set(cwd.rglob("*"))
    process = start(cwd, *new_run(cache, tmp_path, "cut"), environment=SLURM)
    reach(process, 2)
    send(process.pid, number)
    code, words = rest(process)
    assert code == 128 + number
    (sentence,) = words
    assert f"Stopped by {number.name} at iteration" in sentence
    assert sentence.endswith(f"c2s train --resume {run}")
    assert 2 <= read_state(run).step < STEPS
    assert set(cwd.rglob("*")) == held
    return run


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(ENDING), ids=lambda n: n.name)
def test_a_signal_to_all_processes_ends_a_training_with_a_checkpoint(
    tiny_views_cache, tmp_path, number
):
    cut(tiny_views_cache, tmp_path, number, os.killpg)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_training_that_a_signal_ended_goes_on_exactly(tiny_views_cache, whole, tmp_path, number):
    run = cut(tiny_views_cache, tmp_path, number, os.kill)
    assert rest(start(tmp_path, "--resume", run)) == (0, [])
    ours, theirs = tensors(run), tensors(whole)
    assert ours.keys() == theirs.keys()
    assert [k for k in theirs if not torch.equal(ours[k], theirs[k])] == []
    assert records(run) == records(whole)


@pytest.mark.slow
def test_what_is_killed_leaves_nothing_in_shared_memory(tiny_views_cache, tmp_path):
    process = start(tmp_path, *new_run(tiny_views_cache, tmp_path, "killed"))
    reach(process, 3)
    semaphores = [  # who made one maps it under another name, who opened it under its own
        line
        for child in psutil.Process(process.pid).children(recursive=True)
        for line in Path(f"/proc/{child.pid}/maps").read_text(encoding="utf-8").splitlines()
        if "/dev/shm/sem.mp-" in line
    ]
    os.killpg(process.pid, signal.SIGKILL)
    assert rest(process)[0] == -signal.SIGKILL
    assert semaphores
    assert [line for line in semaphores if not line.endswith("(deleted)")] == []


@pytest.mark.slow
def test_a_loader_process_that_is_killed_is_one_sentence(tiny_views_cache, tmp_path):
    process = start(
        tmp_path, *new_run(tiny_views_cache, tmp_path, "cut"), "--set=checkpoint_every=1"
    )
    reach(process, 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8")
    _tracker, *loaders = sorted(map(int, children.split()))
    assert len(loaders) == 2
    os.kill(loaders[0], signal.SIGKILL)
    code, words = rest(process)
    (sentence,) = words
    assert code == 1
    assert "A loader process was killed" in sentence
    assert sentence.endswith(f"c2s train --resume {tmp_path / 'cut'}")


@pytest.mark.slow
def test_a_training_started_with_nohup_goes_on(tiny_views_cache, tmp_path):
    command = ["nohup", C2S, "train", *map(str, new_run(tiny_views_cache, tmp_path, "nohup"))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    reach(process, 2)
    os.killpg(process.pid, signal.SIGHUP)
    assert rest(process)[0] == 0


def test_the_first_signal_counts_and_the_handlers_are_given_back():
    before = {number: signal.getsignal(number) for number in ENDING}
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.number == signal.SIGUSR2
    assert before == {number: signal.getsignal(number) for number in ENDING}


def test_ctrl_c_ends_what_hangs_at_the_third_time_but_never_what_is_saved(capfd):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert "once more" in capfd.readouterr().err
        with stop.saving():
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted, match="at once") as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.exit_code == 130
    assert pickle.loads(pickle.dumps(caught.value)).exit_code == 130


def test_a_handler_of_the_callers_own_is_left_in_place():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert (heard, stop.number) == ([1], 0)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_program_started_deaf_hears_once_it_listens():
    program = (
        "import os, sys; from c2s.training.signals import StopRequest\n"
        "print(flush=True); sys.stdin.readline()\n"
        "with StopRequest() as stop: pass\n"
        "print(stop.number)"
    )
    with deaf():
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    process.stdout.readline()
    process.send_signal(signal.SIGUSR1)
    assert process.communicate("\n")[0].strip() == str(int(signal.SIGUSR1))
