"""A program that reads a cache and forks then: its children read, too, and none of them hangs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_cache import write_cache

HEAD = """
import os, sys
import numpy as np
from c2s.methods.clip_to_seg import ClipToSegConfig
from c2s.methods.clip_to_seg.examples import PATHS
from c2s.text import cached_text
from c2s_cache import open_cache
cache = open_cache(sys.argv[1])
want = cache.read_block(0, PATHS).arrays
def same(arrays):
    return all(np.array_equal(arrays[name], values) for name, values in want.items())
"""
FORKED = """
children = []
for _ in range(2):
    if not (child := os.fork()):
        os._exit(0 if same(cache.read_block(0, PATHS).arrays) and len(cached_text(cache).names) else 1)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(codes, same(cache.read_block(0, PATHS).arrays))
"""
LOADED = """
from torch.utils.data import DataLoader
from c2s.training.sampler import BatchSequence
from c2s.training.stream import BatchStream, block_sizes
examples = ClipToSegConfig().examples(cache.manifest)
stream = BatchStream(cache, BatchSequence(block_sizes(cache), 4), examples, 0, 6, 32, False)
here = [batch.global_cls.tolist() for batch in stream]
there = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
print(here == [batch.global_cls.tolist() for batch in there], len(here))
"""


def run(program, *arguments):
    """What a program prints; it is killed where it hangs."""
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.slow
def test_children_of_a_program_that_has_read_a_cache_read_it(tmp_path):
    assert run(HEAD + FORKED, write_cache(tmp_path / "tiny.zarr")) == "[0, 0] True"


@pytest.mark.slow
def test_a_forking_loader_gives_the_same_batches(tmp_path):
    assert run(HEAD + LOADED, write_cache(tmp_path / "tiny.zarr")) == "True 6"
