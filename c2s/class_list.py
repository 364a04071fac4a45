"""Invariant: a list of classes means the same wherever it is given, and what it means can be read back from it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from c2s.config import shown
from c2s.strict_yaml import LARGEST, parse_yaml
from c2s_cache.errors import ConfigError
from c2s_cache.label_map import MOST_CLASSES
from c2s_cache.text_file import read_text

Names = tuple[tuple[str, ...], ...]
"""Per class its names."""
FILE = "@"
"""Before the name of a file that holds the list."""
SEPARATORS = ",;\n\uff0c\uff1b\u3001"
"""Between classes, outside quotation marks; the last three are full-width and ideographic."""
OTHER_QUOTES = "'`\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"
FEW = 12
"""Classes that a sentence lists."""
_NAME = re.compile(
    rf'\s*(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^"|{SEPARATORS}][^|{SEPARATORS}]*)?)\s*'
    rf"(?P<end>[|{SEPARATORS}]|$)"
)
_LISTS = (".yaml", ".yml", ".json")
_FILES = (*_LISTS, ".txt", ".csv", ".tsv")
_TABLES = (".csv", ".tsv")
_NUMBERED = re.compile(r"\d+(\s|\s*[:=.)])")
_COUNTED = re.compile(r"\d+\s*[:=.)]\s*\S")


def class_list(given: Any, where: str) -> Names:
    """Names per class of what a command line, a setting or a file says.

    A text separates classes by commas, semicolons or lines, and names of one class by "|"; in quotation marks, which
    are doubled within, these are part of a name. A text in brackets is a list in JSON or YAML, and one that begins
    with @ names a file of either form. Names are compared and kept in Unicode's form NFC, with single spaces.

    Args:
        given: such a text; or per class a text "cat | kitten" or a sequence of names.
        where: it is given, for messages.

    Raises:
        ConfigError: no class, one without a name, a name twice, too many, or what is no list.
    """
    if isinstance(given, str):
        text, where = given, f"{where} {shown(given)}"
        if given.startswith(FILE):
            where = given.removeprefix(FILE)
            text = read_text(Path(where), "list of classes", LARGEST, ConfigError)
        elif given.strip().lower().endswith(_FILES) and not set(given) & {*SEPARATORS, "|"}:
            raise ConfigError(
                f"{where} reads as the name of a file.",
                f"Write {FILE}{given.strip()} for the classes in it.",
            )
        given = _parsed(text, where)
    if not isinstance(given, list | tuple):
        raise ConfigError(f"{where} must be a list of names, or of lists of names.")
    found: list[tuple[str, ...]] = []
    for each in given:
        parts = each if isinstance(each, list | tuple) else str(each or "").split("|")
        found.append(tuple(filter(None, (tidy(str(part or ""), where) for part in parts))))
        if not found[-1]:
            raise ConfigError(f"{where}: class {len(found)} has no name.")
    if not found:
        raise ConfigError(f"{where} names no class.")
    if len(found) > MOST_CLASSES:
        raise ConfigError(
            f"{where} names {len(found):,} classes; at most {MOST_CLASSES:,} are possible."
        )
    require_each_once((name for names in found for name in names), where)
    return tuple(found)


def tidy(name: str, where: str) -> str:
    """A name in Unicode's form NFC, with single spaces; "" for a blank one.

    Raises:
        ConfigError: it has a control character, or quotation marks that would be part of it.
    """
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if any(unicodedata.category(c) == "Cc" for c in name):
        raise ConfigError(f"{where}: the class name {name!r} has a control character.")
    if name and name[0] in OTHER_QUOTES and name[-1] in OTHER_QUOTES:
        raise ConfigError(f'{where}: {name} stands in quotation marks that are not "".')
    return name


def require_each_once(names: Iterable[str], where: str) -> None:
    """Refuse a name that occurs twice.

    Raises:
        ConfigError: it does.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{where} must name distinct classes, and has {name!r} twice.")
        seen.add(name)


def understood(classes: Iterable[str]) -> str:
    """A sentence of the classes that a list was understood to name, for users to read."""
    names = list(classes)
    if len(names) == 1:
        return f"1 class: {names[0]}. It fills every image: a pixel gets the best of the classes named."
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return f"{len(names):,} classes: {'; '.join(names[:FEW])}{more}"


def _parsed(text: str, where: str) -> Any:
    """What a text lists: per class a list of its names, or what it holds in JSON or YAML."""
    bare = text.strip()
    ends = bare[:1] + bare[-1:] if bare[-1:] not in bare[:-1] else ""
    if ends == "()":  # Python's
        bare = f"[{bare[1:-1]}]"
    if (
        bare.startswith("- ")
        or bare[:1] + bare[-1:] == "[]"
        or ends == "{}"
        or where.endswith(_LISTS)
    ):
        content = parse_yaml(bare, where)
        if isinstance(
            content, dict
        ):  # a data set's own classes.yaml, or the mapping that it may have
            content = content.get("classes", content)
        return _in_order(content) if isinstance(content, dict) else content
    if any(bare.startswith(a) and bare.count(a) > bare.count(b) for a, b in ("[]", "{}")):
        raise ConfigError(
            f"{where} begins with {bare[0]}, which nothing closes, so that it is no list in JSON or YAML.",
            'A name that begins so stands in "".',
        )
    lines = [line for line in bare.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    rows = [_classes_of(line, where) for line in lines]
    columns = {len(row) for row in rows}
    if where.endswith(_TABLES) and len(rows) > 1 and len(columns) == 1 and columns != {1}:
        raise ConfigError(
            f"{where} is a table of {columns.pop()} columns, where a list of names is expected.",
            "Keep the column of names.",
        )
    classes = [names for row in rows for names in row]
    firsts = lines if len(lines) > 1 else [names[0] for names in classes]
    if len(firsts) > 1 and all(map((_NUMBERED if len(lines) > 1 else _COUNTED).match, firsts)):
        raise ConfigError(
            f"{where} has a number before each name, which would be part of it.",
            'Leave the numbers out, as classes are counted from 0 in the order of the list; or put names into "".',
        )
    return classes


def _in_order(named: Mapping[Any, Any]) -> Any:
    """The names of a mapping from numbers to names, or from names to numbers, in the order of the numbers."""
    for pairs in (named.items(), [(number, name) for name, number in named.items()]):
        if pairs and all(str(number).isdecimal() for number, _ in pairs):
            return [name for _, name in sorted(pairs, key=lambda pair: int(pair[0]))]
    return None


def _classes_of(line: str, where: str) -> list[list[str]]:
    """Per class of a line the names between its bars; nothing between two separators is no class."""
    classes: list[list[str]] = [[]]
    at = 0
    while at <= len(line):
        found = _NAME.match(line, at)
        if found is None:
            raise ConfigError(f"{where}: quotation marks stand round a whole name, in pairs.")
        quoted, plain, end = found.group("quoted", "plain", "end")
        classes[-1].append((quoted or "").replace('""', '"') or plain or "")
        if end != "|":
            classes.append([])
        at = found.end() if end else len(line) + 1
    return [names for names in classes if names not in ([], [""])]
