"""Invariant: every failure a user can cause is a `C2SError` that says what, where and what to do."""

from __future__ import annotations

from typing import Any


class C2SError(Exception):
    """A failure that is reported to the user as one line, never as a traceback.

    Args:
        what: one sentence: what is wrong, where (path, key, row), expected against got.
        hint: the next command or action, if there is one.

    Attributes:
        exit_code: of a command that fails so.
        quiet: another process says it.
    """

    exit_code: int = 1
    quiet: bool = False

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return self.what if self.hint is None else sentences(self.what, self.hint)

    def __reduce__(self) -> tuple[type[C2SError], tuple[Any, ...]]:
        # Errors cross process boundaries (workers to builder), so both parts must survive pickling.
        return type(self), (self.what, self.hint)


def sentences(*parts: str) -> str:
    """Parts of a message, one after the other: each but the last ends a sentence, also where it ends with a
    command, which alone would go without a full stop."""
    *before, last = parts
    ended = [part if part.endswith((".", "!", "?")) else f"{part}." for part in before]
    return " ".join([*ended, last])


def of_gpu_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory ran out: torch's own, or one of a library beneath it."""
    text = str(error)
    return type(error).__name__ == "OutOfMemoryError" or any(
        sign in text
        for sign in ("CUDA out of memory", "CUDA error: out of memory", "_ALLOC_FAILED")
    )


def memory_ran_out(error: BaseException) -> str | None:
    """Which memory ran out, as a sentence begins; None where an error says nothing of the kind."""
    if of_gpu_memory(error):
        return "GPU memory"
    ours = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
    return "Memory" if ours else None


class CacheError(C2SError):
    """The cache on disk is missing, incomplete, damaged or of another format."""


class DamagedError(CacheError):
    """What is read of a cache is not what its receipts say: damaged, missing, or changed by a writer."""


class StageMissing(CacheError):
    """A cache was built without a stage that is asked of it."""


class MismatchError(CacheError):
    """A cache exists but was built for a different request."""


class DataError(C2SError):
    """The source data set does not have the documented layout or values."""


class UnreadableImage(C2SError):
    """An image file cannot be decoded; builders quarantine its row."""


class MissingExtra(C2SError):
    """An optional dependency is not installed."""


class ConfigError(C2SError):
    """A name, option or configuration value is not valid."""

    exit_code = 2
