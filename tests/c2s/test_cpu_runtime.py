"""What the command does to a process before torch is there, seen from outside: in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHURN = """
import resource
import torch
x = torch.zeros(64, 2**16)  # 16 MB, like a feature map of a small student
for turn in range(20):
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [x + 1 for _ in range(8)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PREPARED = "from c2s.cpu_runtime import prepare\nprepare()\n"


def run(program, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GOMP_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def fewest(program):
    """Page faults of the best of three runs: a machine that reclaims memory meanwhile adds to them."""
    return min(int(run(program)[0]) for _ in range(3))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory and libgomp's threads")
def test_memory_of_tensors_is_kept_between_steps():
    given_back = fewest(CHURN)  # pages; 12 to 330 thousand, as glibc's own threshold adapts
    assert fewest(PREPARED + CHURN) < given_back / 3
    inherited = (
        "import os, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {CHURN!r}], env=os.environ, check=True)"
    )
    assert fewest(PREPARED + inherited) < given_back / 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory and libgomp's threads")
def test_threads_that_wait_give_way_soon():
    shown = run(PREPARED + "import torch", OMP_DISPLAY_ENV="verbose")[1]
    assert "GOMP_SPINCOUNT = '2000'" in shown


def test_what_the_environment_says_stays():
    show = (
        PREPARED
        + "import os\nprint({k: v for k, v in os.environ.items() if k[:4] in ('GOMP', 'MALL')})"
    )
    assert run(show, OMP_WAIT_POLICY="active", MALLOC_ARENA_MAX="2")[0] == (
        "{'MALLOC_ARENA_MAX': '2'}\n"
    )
    assert "'GOMP_SPINCOUNT': '7'" in run(show, GOMP_SPINCOUNT="7")[0]


@pytest.mark.slow
def test_the_command_prepares_before_torch_is_there():
    program = (
        "import importlib, sys\nmodule = importlib.import_module('c2s.cli.app')\n"
        "def look(): assert 'torch' not in sys.modules; print('prepared')\n"
        "module.prepare = look\nsys.argv = ['c2s', 'students', 'show', 'shapes-net']\nmodule.main()"
    )
    assert run(program)[0].startswith("prepared\n")
