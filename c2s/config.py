"""Invariant: a command's settings are one strict model; file, --set and options only ever fill it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from c2s_cache.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


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
        settings: "key.inner=value" strings; values are read as YAML.
        options: values of command-line options by field name; None means not given.

    Raises:
        ConfigError: one sentence for every wrong key or value.
    """
    values = merge({}, defaults)
    if file is not None:
        values = merge(values, read_yaml(file))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting!r}: expected key=value.")
        nested: Any = _yaml(text, f"--set {setting!r}")
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    values = merge(values, {k: v for k, v in options.items() if v is not None})
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(" ".join(_sentence(e) for e in error.errors())) from error


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file cannot be read or holds something else.
    """
    try:
        content = _yaml(file.read_text(), str(file))
    except OSError as error:
        raise ConfigError(
            f"configuration file {file} cannot be read ({error.strerror})."
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file {file}: expected a mapping of keys to values.")
    return content


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "configuration"
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}."
    return f"{where}: {error['msg']} (got {error['input']!r})."
