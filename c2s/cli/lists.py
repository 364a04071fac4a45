"""Options that hold several values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from c2s_cache.errors import ConfigError

T = TypeVar("T")
MOST = 1000


def listed(text: str | None, option: str, read: Callable[[str], T]) -> list[T]:
    """Values separated by commas; none if the option was not given.

    Raises:
        ConfigError: `read` does not take one of them.
    """
    if text is None:
        return []
    try:
        return [read(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: expected values separated by commas.") from error


def numbers(text: str, option: str) -> list[float]:
    """Numbers separated by commas, or START:STOP:STEP with both ends; each once.

    Raises:
        ConfigError: neither, a number that is not finite, or a range of no or too many numbers.
    """
    parts = text.split(":")
    values = listed(",".join(parts), option, float)
    if len(parts) == 3 and len(values) == 3:
        start, stop, step = values
        steps = round((stop - start) / step, 6) if step else -1.0
        if not 0 <= steps < MOST:
            raise ConfigError(
                f"{option} {text!r}: expected START:STOP:STEP with STEP towards STOP."
            )
        values = [round(start + i * step, 10) for i in range(int(steps) + 1)]
    elif len(parts) != 1:
        raise ConfigError(f"{option} {text!r}: expected numbers with commas, or START:STOP:STEP.")
    if not all(abs(v) < float("inf") for v in values):
        raise ConfigError(f"{option} {text!r}: expected finite numbers.")
    return list(dict.fromkeys(values))
