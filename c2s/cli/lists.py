"""Options that hold several values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from c2s.strict_yaml import LARGEST, parse_yaml
from c2s_cache.errors import ConfigError
from c2s_cache.text_file import read_text

T = TypeVar("T")
MOST = 1000
LISTS = (".yaml", ".yml")

Names = tuple[tuple[str, ...], ...]
"""Per class its names."""


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


def class_names(classes: Any) -> Names:
    """Names per class of "cat | kitten, sofa", of a list of such texts or of lists, or of a YAML file with one.

    Raises:
        ConfigError: none, one twice, too many, or the file holds no list.
    """
    from c2s.vocabulary import named_classes
    from c2s_cache.label_map import MOST_CLASSES

    where, given = f"--classes {classes!r}", classes
    if isinstance(classes, str) and classes.endswith(LISTS):
        given = parse_yaml(
            read_text(Path(classes), "list of classes", LARGEST, ConfigError), classes
        )
        where = classes
    elif isinstance(classes, str):
        given = [name for name in classes.split(",") if name.strip()]
    if not isinstance(given, list | tuple):
        raise ConfigError(f"{where} must be a list of names, or of lists of names.")
    if len(given) > MOST_CLASSES:
        raise ConfigError(
            f"{where} names {len(given):,} classes; at most {MOST_CLASSES:,} are possible."
        )
    return named_classes(given, where)
