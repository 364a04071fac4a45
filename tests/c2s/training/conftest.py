"""All tests here compute in one thread; what several of them stream from."""

from one_thread import one_thread
from stream_batches import cache

__all__ = ["cache", "one_thread"]
