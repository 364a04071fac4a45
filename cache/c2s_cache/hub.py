"""Invariant: a hub that does not answer is noticed within two seconds, and is then not asked again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

PATIENCE = 2.0
"""Seconds that the hub has to answer a first question. It has ten, and five more tries, for a file."""


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Whether the Hugging Face hub can be reached; asked once per process.

    False without asking where HF_HUB_OFFLINE says so.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    heard: list[bool] = []
    # A thread of its own: looking up a name knows no time limit.
    asking = threading.Thread(target=lambda: heard.append(_head(constants.ENDPOINT)), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return heard == [True]


def _head(url: str) -> bool:
    """Whether anything, a refusal included, comes back from there; a proxy of the environment is used."""
    from huggingface_hub import get_session

    try:
        get_session().head(url, timeout=PATIENCE)
    except Exception:  # whatever library the hub's client speaks through has errors of its own
        return False
    return True


@contextmanager
def hub() -> Iterator[None]:
    """Within, libraries that ask the Hugging Face hub get what is on this machine if it does not answer.

    They would otherwise try each file again and again, for a minute, even files that they have.
    """
    from huggingface_hub import constants

    if hub_answers():
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def foreign_kernel(config: Any) -> str | None:
    """The repository that a configuration of transformers names for its attention, if it does.

    transformers would download and run what is there; its own kinds of attention have plain names.
    """
    for part in (config, *vars(config).values()):
        named = getattr(part, "_attn_implementation", None)
        for value in named.values() if isinstance(named, dict) else (named,):
            if isinstance(value, str) and not value.isidentifier():
                return value
    return None
