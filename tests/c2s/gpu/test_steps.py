"""What the steps reckon with, and that each of them is there."""

from __future__ import annotations

import importlib
import inspect
import json
import threading
import time

import numpy as np
import pytest

from c2s.gpu.agreement import agreement, cosine
from c2s.gpu.builds import told
from c2s.gpu.inputs import difference, photo_cache
from c2s.gpu.machine import machine, query, state, watched
from c2s.gpu.speed import Spent, build_time, hour, product_rate, rate, vit_flops
from c2s.gpu.steps import MACHINE, SETUP, STEPS
from c2s.gpu.world import Command, Skipped, World, open_world, write_world
from c2s.shapes.defaults import TEACHER
from c2s_cache import open_cache


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, "cpu", True, tmp_path / "gpu.json")


@pytest.mark.parametrize("step", [SETUP, MACHINE, *STEPS], ids=lambda step: step.name)
def test_every_step_is_a_function_of_the_world(step):
    module, _, name = step.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    assert list(inspect.signature(function).parameters) == ["world"]
    assert function.__doc__
    assert step.what
    assert 0 < step.seconds <= 300


def test_the_world_is_the_same_in_every_process(world):
    write_world(world)
    assert open_world(world.folder) == world
    assert world.size("small", "full") == "small"


@pytest.mark.slow
def test_a_rehearsal_builds_from_photos(world):
    """By the command and by the library, though its teacher knows no name of their classes."""
    cache = open_cache(photo_cache(world))
    assert (cache.manifest.rows, cache.manifest.num_classes) == (12, 171)
    assert build_time(world)["images"] == 8


def test_teachers_agree_with_themselves(world):
    rows = agreement(world)["rows"]
    assert [row["precision"] for row in rows] == ["float32", "bfloat16"]
    assert rows[0]["dense, worst"] == pytest.approx(1)
    assert rows[0]["mask cells that differ"] == 0
    assert 0.99 < rows[1]["CLS"] < 1


def test_cosine():
    a = np.array([[1.0, 0], [1, 1]], np.float32)
    b = np.array([[2.0, 0], [1, 0]], np.float32)
    assert cosine(a, b) == pytest.approx((1 + 0.5**0.5) / 2)
    assert cosine(a, b, worst=True) == pytest.approx(0.5**0.5)


def test_difference():
    assert difference([1.0, 2.0], [1.0, 1.0]) == 0.5
    assert difference([1.0], [1.0, 2.0]) == float("inf")
    assert difference([], []) == float("inf")


def test_operations_of_a_vit():
    """ViT-B/16 at 224 pixels: 17.6 GMACs, as published; here a small one, counted by hand."""
    from c2s_pipeline.teachers.base import TeacherSpec
    from c2s_pipeline.teachers.registry import load_teacher

    teacher = load_teacher(TeacherSpec(TEACHER, None), "cpu")  # 64 pixels, patches of 8, width 128
    tokens = 8 * 8 + 1
    layer = tokens * (4 * 128**2 + 2 * 128 * 512) + 2 * tokens**2 * 128
    assert vit_flops(teacher, 64) == 2 * (6 * layer + 64 * 3 * 64 * 128)


def test_times_of_methods():
    class Worker:
        def work(self, number):
            time.sleep(0)
            return number + 1

    plain, spent = Worker.work, Spent()
    with spent.of("work", Worker, "work"):
        threads = [threading.Thread(target=Worker().work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Worker().work(1) == 2
    assert Worker.work is plain
    assert spent.seconds["work"] > 0


def test_an_hour_is_reckoned_from_the_other_steps(world):
    with pytest.raises(Skipped, match="none was measured"):
        hour(world)
    steps = {
        "build-speed": {
            "figures": {
                "rows": [{"precision": "bfloat16", "dense size": 224, "build, images/s": 118.287}]
            }
        },
        "segformer-b4": {
            "figures": {
                "rows": [{"steps": "streamed", "it/s": 4.0}, {"steps": "memory", "it/s": 5.0}]
            }
        },
    }
    world.report.write_text(json.dumps({"steps": steps}))
    built, trained = hour(world)["rows"]
    assert built["hours"] == pytest.approx(1000 / 3600)
    assert trained["hours"] == pytest.approx(20_000 / 3600)
    assert trained["an hour buys"] == 14_400


def test_a_machine_without_a_gpu(world, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")  # no nvidia-smi
    facts = machine(world)
    assert facts["versions"]["torch"]
    assert facts["cores"] >= 1
    assert state() == {}
    with watched() as seen:
        pass
    assert seen == {}
    assert rate(lambda: None, "cpu", 0.001) > 1
    assert product_rate(world, "bfloat16") > 0


SMI = """#!/bin/sh
case "$*" in
  *--loop-ms*) echo "50, 1980, [N/A]"; echo "100, 1960, [N/A]"; echo "cut sh"; touch "$0.said"; exec sleep 60;;
  *clocks.mem*) echo "1980 MHz, 2619 MHz, [N/A], 41, P0";;
  *) echo "580.1";;
esac
"""


def test_the_state_of_a_card(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert query("driver_version") == ["580.1"]
    assert state() == {
        "clocks.sm": "1980 MHz",
        "clocks.mem": "2619 MHz",
        "power.draw": "[N/A]",
        "temperature.gpu": "41",
        "pstate": "P0",
    }
    with watched() as seen:
        while not (tmp_path / "nvidia-smi.said").exists():
            time.sleep(0.05)
    assert seen == {"utilization.gpu": 75.0, "clocks.sm": 1970.0}


def test_how_a_command_ran_out_of_memory():
    good = Command(1, "", "warming up\nerror: GPU memory ran out. Free it.\n", 1.0)
    assert told(good) == {
        "exit code": 1,
        "said": "error: GPU memory ran out. Free it.",
        "in one sentence": True,
        "of memory": True,
    }
    bad = Command(1, "", "Traceback (most recent call last):\nOutOfMemoryError: x\n", 1.0)
    assert not told(bad)["in one sentence"]
    assert told(bad)["said"] == "OutOfMemoryError: x"
