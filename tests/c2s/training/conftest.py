"""All tests here compute in one thread; what several of them stream from, and a run that they look at."""

import pytest
from one_thread import one_thread
from stream_batches import cache
from tiny_runs import stepwise

from c2s.training import run

__all__ = ["cache", "one_thread"]


@pytest.fixture(scope="module")
def finished(tiny_views_cache, tmp_path_factory):
    """Folder of a finished run, left as it was found."""
    return run.train(stepwise(tiny_views_cache, tmp_path_factory.mktemp("finished"), name="whole"))
