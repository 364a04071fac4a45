"""A few of many wrong command lines; each ends in a sentence, and none runs."""

from __future__ import annotations

import random

import pytest
from wrong_invocations import commands, draw, odd_files

HARMLESS = ("list", "bench", "demo")
"""Commands that need no option, so that a command line of them may be right."""
COUNT = 10
"""Command lines of each seed."""
ROOM = 1000
"""Characters of a message beside what it repeats."""


@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_command_line_is_a_sentence(c2s, tmp_path, seed):
    rng, files = random.Random(seed), odd_files(tmp_path)
    known = {"cache": ["c.zarr"], "run": ["run"], "path": ["c.zarr"], "out": ["out"]}
    drawn = (draw(rng, known, files) for _ in range(1000))
    for words in [w for w in drawn if not set(HARMLESS) & set(w[:2])][:COUNT]:
        code, out, err = c2s(*words)
        assert code in (1, 2), (words, out)
        assert err.strip(), words
        assert "Traceback" not in err, words
        assert len(err) < ROOM + 2 * len(" ".join(words)), (words, err)
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(files), "nothing was made"


def test_every_command_is_drawn():
    seen = {tuple(draw(random.Random(seed), {}, ["x"])[:2]) for seed in range(400)}
    assert {(*words, "")[:2] for words, _ in commands() if len(words) == 2} <= seen


def test_a_command_that_memory_runs_out_of_says_so(c2s, monkeypatch):
    def full(*_):
        raise MemoryError("Unable to allocate 2.00 TiB for an array")

    monkeypatch.setattr("c2s.bench.infer.bench_infer", full)
    code, out, err = c2s("bench", "infer", "--student", "shapes-net")
    assert (code, out, err) == (1, "", "error: Memory ran out. Take less at a time.\n")
