"""Invariant: a command's settings are one strict model; file, --set and options only ever fill it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from c2s.strict_yaml import DEEPEST, NULLS, parse_yaml, read_yaml
from c2s_cache.errors import ConfigError
from c2s_cache.plugins import CODE

ModelT = TypeVar("ModelT", bound=BaseModel)
NUMBER = re.compile(r"\s*[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*")
SHOWN = 80
"""Characters of a wrong value that a message repeats."""
FEW = 12
"""Keys that a message lists."""
ALLOWABLE = ("student", "students", "method")
"""Keys that may name code in a file; `--allow-code` decides (`c2s.students.registry.require_no_code`)."""
SENTENCES = 8
"""Of a message about many wrong keys or values."""


class InnerError(ValueError):
    """What is wrong with a model that a validator of another one makes."""

    def __init__(self, error: ValidationError, model: type[BaseModel]) -> None:
        super().__init__(str(error))
        self.error, self.model = error, model


def in_store(path: Path) -> bool:
    """Whether a path was made of a URL: `s3://bucket/x` becomes `s3:/bucket/x`."""
    return re.match(r"[a-z][a-z0-9+.-]+:", path.parts[0] if path.parts else "") is not None


def resolve(
    model: type[ModelT],
    defaults: Mapping[str, Any],
    file: Path | None,
    settings: Iterable[str],
    options: Mapping[str, Any],
) -> ModelT:
    """Fill a configuration model: defaults, then YAML file, then --set, then command-line options.

    Args:
        model: the pydantic model.
        defaults: nested values that replace the model's own defaults.
        file: YAML file, or None.
        settings: "key.inner=value" texts. A value is taken as written: null and ~ are None, and one
            that begins with a bracket, brace or quotation mark is read as YAML.
        options: values of command-line options by field name; None means not given.

    Raises:
        ConfigError: one sentence for every wrong key or value.
    """
    try:
        return validated(model, gathered(defaults, file, settings, options))
    except ValidationError as error:
        raise ConfigError(sentences(_sentences(error, model))) from error


def gathered(
    defaults: Mapping[str, Any],
    file: Path | None,
    settings: Iterable[str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Nested values from the places of `resolve`, the later above the earlier; not validated.

    Raises:
        ConfigError: the file or a setting cannot be read, or the file names code to import.
    """
    values = merge({}, defaults)
    if file is not None:
        found = read_yaml(file)
        _require_no_code(found, file, "")
        values = merge(values, found)
    for setting in settings:
        values = merge(values, _setting(setting))
    return merge(values, {k: v for k, v in options.items() if v is not None})


def _require_no_code(value: Any, file: Path, key: str) -> None:
    """Refuse a file whose values would have code imported: a teacher, a stage, where weights are.

    Raises:
        ConfigError: it is such a file.
    """
    if isinstance(value, Mapping):
        for inner, content in value.items():
            if inner not in ALLOWABLE:
                _require_no_code(content, file, f"{key}.{inner}".lstrip("."))
    elif isinstance(value, list):
        for content in value:
            _require_no_code(content, file, key)
    elif isinstance(value, str) and re.fullmatch(rf"{CODE}[\w.]+:\w+", value):
        raise ConfigError(
            f"{file}: {key} is code, {value}, which is not imported because a file says so.",
            "If you trust it, name it yourself, with an option or --set, and not in the file.",
        )


def require_said_once(settings: Iterable[str], options: Mapping[str, Any]) -> None:
    """Refuse a --set that an option of the same command line would overrule.

    Args:
        settings: "key.inner=value" texts.
        options: values of command-line options by field name; None means not given.

    Raises:
        ConfigError: names the first setting that is said twice.
    """
    for setting in settings:
        key = setting.partition("=")[0].strip()
        found: Any = options
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None:
            raise ConfigError(
                f"--set {shown(setting)} and an option beside it both say {key}; leave one of them out."
            )


def validated(model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
    """A model from values of Python or texts of YAML, without pydantic's looser readings of numbers.

    Raises:
        ValidationError: a wrong key or value.
        ConfigError: a boolean, or a text such as 010 or 1_000, where a number belongs, or one that is not
            finite; nothing where a path belongs.
    """
    made = model.model_validate(values)
    mistaken = [
        f"{'.'.join(where)}: expected {expected} (got {shown(given)})."
        for where, given, expected in _misread(values, made, ())
    ]
    if mistaken:
        raise ConfigError(sentences(mistaken))
    return made


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def sentences(found: Iterable[str]) -> str:
    """The first few of many sentences, and how many there are beside."""
    told = list(found)
    more = len(told) - SENTENCES
    return " ".join(told[:SENTENCES]) + (f" And {more:,} more." if more > 0 else "")


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _setting(setting: str) -> dict[str, Any]:
    """Nested values of "key.inner=value"."""
    key, equals, text = setting.partition("=")
    key, text = key.strip(), text.strip()
    parts = key.split(".")
    if not equals or not all(parts) or len(parts) > DEEPEST:
        raise ConfigError(f"--set {shown(setting)}: expected key=value.")
    if not text:
        raise ConfigError(
            f"--set {shown(setting)}: no value follows the equals sign.",
            f"Write {key}=null for none of it, or leave it out for the default.",
        )
    nested: Any = text
    if text in NULLS:
        nested = None
    elif text[0] in "[{\"'":
        nested = parse_yaml(text, f"--set {shown(setting)}")
    for part in reversed(parts):
        nested = {part: nested}
    found: dict[str, Any] = nested
    return found


def _misread(
    given: Any, made: Any, where: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """Where what became a number was none, or none that is finite, and what became this folder was nothing; and what
    is expected there."""
    if isinstance(given, Mapping) and isinstance(made, BaseModel):
        for key, value in given.items():
            yield from _misread(value, getattr(made, key), (*where, key))
    elif isinstance(given, Mapping) and isinstance(made, Mapping):
        if len(given) != len(made):
            raise ConfigError(f"{'.'.join(where)}: two of its keys are one number.")
        for (key, value), (other, got) in zip(given.items(), made.items(), strict=True):
            yield from _misread(key, other, (*where, str(key)))
            yield from _misread(value, got, (*where, str(key)))
    elif isinstance(given, list | tuple) and isinstance(made, list | tuple):
        for i, (value, got) in enumerate(zip(given, made, strict=True)):
            yield from _misread(value, got, (*where, str(i)))
    elif isinstance(made, int | float) and not isinstance(made, bool):
        text = isinstance(given, str) and not NUMBER.fullmatch(given)
        if text or isinstance(given, bool) or not math.isfinite(made):
            yield where, given, "a finite number, written like 10, 0.5 or 1e-4"
    elif isinstance(made, PurePath) and isinstance(given, str) and not given.strip():
        yield where, given, "a path"


def _sentences(
    found: ValidationError, model: type[BaseModel], above: tuple[int | str, ...] = ()
) -> Iterator[str]:
    """One sentence for each error, those of models that a validator makes included."""
    for error in found.errors():
        inner = error.get("ctx", {}).get("error")
        if isinstance(inner, InnerError):
            yield from _sentences(inner.error, inner.model, (*above, *error["loc"]))
        else:
            yield _sentence(error, model, ".".join(str(part) for part in (*above, *error["loc"])))


def _sentence(error: Any, model: type[BaseModel], where: str) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key {shown(where)}{known(model, error['loc'])}."
    if error["type"] == "missing":
        return f"the key {where!r} is missing."
    if error["type"] == "value_error":  # a sentence of our own
        return f"{where + ': ' if where else ''}{error['ctx']['error']}."
    return f"{where or 'configuration'}: {error['msg']} (got {shown(error['input'])})."


def known(model: type[BaseModel], where: tuple[Any, ...]) -> str:
    """The keys that stand beside one that does not exist; nothing where it is not of one model."""
    *groups, key = where
    for group in groups:
        kind = model.model_fields[group].annotation if group in model.model_fields else None
        inner = [
            t for t in (kind, *get_args(kind)) if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        if len(inner) != 1:
            return ""
        model = inner[0]
    keys = list(model.model_fields)
    if near := get_close_matches(str(key)[:SHOWN], keys, 1):
        return f"; nearest is {near[0]!r}"
    return f"; known: {', '.join(keys)}" if len(keys) <= FEW else ""
