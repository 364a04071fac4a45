"""Invariant: which classes are unseen is a set of known classes, perhaps all of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from c2s.class_list import tidy
from c2s.config import shown
from c2s.strict_yaml import read_yaml
from c2s_cache import ConfigError


def read_split_file(file: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Unseen class ids from a YAML file with the one key `unseen`: a list of class names or ids.

    Raises:
        ConfigError: the file cannot be read, or names a class that does not exist.
    """
    content = read_yaml(file)
    if set(content) != {"unseen"}:
        raise ConfigError(
            f"{file}: expected the one key `unseen`, a list of class names or ids, "
            f"got {', '.join(map(shown, content))[:200] or 'nothing'}."
        )
    return unseen_ids(content["unseen"], classes, str(file))


def unseen_ids(entries: Any, classes: tuple[str, ...], where: str) -> tuple[int, ...]:
    """Ascending ids of the classes that `entries` names.

    Args:
        entries: class names or ids; a text of digits is an id where it is no class's name.
        classes: names in id order.
        where: the file they come from, for messages.

    Raises:
        ConfigError: an entry is no class or occurs twice.
    """
    if not isinstance(entries, Iterable) or isinstance(entries, str | dict):
        raise ConfigError(f"{where}: `unseen` must be a list of class names or ids.")
    ids = [_class_id(entry, classes, where) for entry in entries]
    for i in ids:
        if ids.count(i) > 1:
            raise ConfigError(f"{where}: `unseen` has the class {classes[i]!r} twice.")
    return tuple(sorted(ids))


def _class_id(entry: Any, classes: tuple[str, ...], where: str) -> int:
    entry = tidy(entry, where) if isinstance(entry, str) else entry
    if isinstance(entry, str) and entry not in classes and re.fullmatch("0|[1-9][0-9]{0,5}", entry):
        entry = int(entry)
    if isinstance(entry, int) and not isinstance(entry, bool):
        if 0 <= entry < len(classes):
            return entry
        raise ConfigError(f"{where}: unseen class {entry} is outside 0..{len(classes) - 1}.")
    if entry in classes:
        return classes.index(entry)
    near = difflib.get_close_matches(str(entry)[:80], classes, 1)
    hint = f"Did you mean {near[0]!r}?" if near else "Class names: c2s data show NAME."
    raise ConfigError(f"{where}: unseen class {shown(entry)} is not in the class list.", hint)
