"""Invariant: YAML is text as written, null, lists and mappings; what is a number or true, a model decides.

YAML 1.1, as most loaders read it, guesses: `no` is false, `010` is 8, `1:30` is 90, `2024_01` is 202401, and
the second of two equal keys wins. Here a folder `2024_01` and a class `no` keep their names, and a number is
what the model that asks for one takes (`c2s.config.validated`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from c2s_cache.errors import ConfigError
from c2s_cache.text_file import read_text

LARGEST = 1 << 20
"""Bytes of a file: the configurations of c2s have a few thousand."""
DEEPEST = 32
"""Lists and mappings within each other."""
MOST_VALUES = 100_000
"""In a text, each alias counted as what it stands for."""
NULLS = ("", "~", "null", "Null", "NULL")


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read or holds something else.
    """
    content = parse_yaml(read_text(file, "configuration file", LARGEST, ConfigError), str(file))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file {file}: expected a mapping of keys to values.")
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Nested lists and mappings, whose keys and values are texts as written; a plain `null` is None.

    Args:
        text: one YAML document.
        where: it comes from, for messages.

    Raises:
        ConfigError: it is no YAML, or has a key twice, a tag, or more than any configuration has.
    """
    try:
        return _Composer(text, where).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError(f"{where} is not valid YAML: {error.problem}{place}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error


class _Composer:
    """Values from the events of a text, as they come: nothing large is made before it is refused."""

    def __init__(self, text: str, where: str) -> None:
        self.events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.where = where
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.count = 0

    def document(self) -> Any:
        content, documents = None, 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "a second document begins")
                content = self._value(next(self.events), 0)
        return content

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self._error(event, f"*{event.anchor} stands for nothing before it")
            value, size = self.anchors[event.anchor]
            self._add(event, size)
            return value
        if event.tag is not None:
            raise self._error(event, f"the tag {event.tag} is not taken")
        before = self.count
        self._add(event, 1)
        if isinstance(event, yaml.ScalarEvent):
            value = None if event.style is None and event.value in NULLS else event.value
        elif depth == DEEPEST:
            raise self._error(event, f"lists or mappings are nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self._value(e, depth + 1) for e in self._inside(yaml.SequenceEndEvent)]
        else:
            value = self._mapping(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.count - before)
        return value

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self._inside(yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a key is no text")
            if event.value in found:
                raise self._error(event, f"the key {event.value[:80]!r} is there twice")
            found[event.value] = self._value(next(self.events), depth + 1)
        return found

    def _inside(self, end: type) -> Iterator[Any]:
        for event in self.events:
            if isinstance(event, end):
                return
            yield event

    def _add(self, event: Any, values: int) -> None:
        self.count += values
        if self.count > MOST_VALUES:
            raise self._error(event, f"it holds more than {MOST_VALUES:,} values")

    def _error(self, event: Any, problem: str) -> ConfigError:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        return ConfigError(f"{self.where}, line {line}, column {column}: {problem}.")
