"""Invariant: a model that comes as a folder, or from the hub, brings numbers and words; it never brings code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from c2s_cache import C2SError, ConfigError
from c2s_cache.hub import foreign_kernel, hub, hub_answers
from c2s_pipeline.extras import quiet, require
from c2s_pipeline.teachers.clip_names import (
    FOLDER,
    HUB,
    WORDS,
    fetch,
    no_answer,
    not_here,
    own_weights,
)

TOKENIZER = ("clean", "strip_sep_token", "language", "additional_special_tokens")
"""Settings of a tokenizer that open_clip itself knows. All others would go to transformers, where one has
the folder's Python run, or to parts that draw at random or load pickles."""


def check_model(name: str) -> None:
    """Refuse a folder or hub model whose configuration asks for more than open_clip's own parts.

    Raises:
        ConfigError: it names code of its own, or cannot be read.
    """
    if not own_weights(name):
        return
    text = model_config(name)["text_cfg"]
    foreign = sorted(set(text.get("tokenizer_kwargs") or {}) - set(TOKENIZER))
    if foreign:
        raise ConfigError(
            f"teacher {name}: tokenizer_kwargs in open_clip_config.json sets {', '.join(foreign)}; of a "
            f"model that is not open_clip's own only {', '.join(TOKENIZER)} are taken, and no code is run.",
            "Remove the setting from the file.",
        )
    if text.get("hf_model_name"):
        _check_text_tower(name, str(text["hf_model_name"]))


def _check_text_tower(name: str, tower: str) -> None:
    from transformers import AutoConfig

    try:
        with hub():
            config = AutoConfig.from_pretrained(tower, trust_remote_code=False)
    except Exception as error:  # transformers and what it downloads with fail in many ways
        raise _unread(
            f"teacher {name}: its text tower {tower!r} cannot be read", tower, error
        ) from error
    if getattr(config, "auto_map", None) or foreign_kernel(config):
        raise ConfigError(
            f"teacher {name}: its text tower {tower!r} brings Python code of its own, which is never run."
        )


def model_config(name: str) -> dict[str, Any]:
    """The configuration of a model, `vision_cfg` and `text_cfg` in it.

    Raises:
        ConfigError: it is not of that form.
        C2SError: it is not on this machine, and the hub has none or does not answer.
    """
    try:
        if name.startswith(FOLDER):
            file = Path(name.removeprefix(FOLDER)) / "open_clip_config.json"
            found = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        else:
            found = _known(name)
        for part in ("vision_cfg", "text_cfg"):
            if not isinstance(found[part], dict):
                raise TypeError(f"{part} is no object")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"teacher {name}: open_clip_config.json is no configuration of an open_clip model ({error!r})."
        ) from error
    config: dict[str, Any] = found
    return config


def _known(name: str) -> Any:
    """The configuration of a name of open_clip's, or of a repository of the hub."""
    open_clip = require("open_clip", "build")
    try:
        with hub():
            return open_clip.get_model_config(name)
    except FileNotFoundError as error:
        if not hub_answers():
            raise not_here(name, None) from error
        raise C2SError(f"teacher {name}: {error}") from error


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a teacher, as open_clip makes it, without code of its own.

    Raises:
        ConfigError: the model asks for such code.
        C2SError: it cannot be loaded.
    """
    open_clip = require("open_clip", "build")
    check_model(name)
    foreign = str(model_config(name)["text_cfg"].get("hf_tokenizer_name") or "")
    try:
        with quiet(), hub():
            return open_clip.get_tokenizer(
                name, **({"trust_remote_code": False} if foreign else {})
            )
    except Exception as error:  # transformers and what it downloads with fail in many ways
        source = name if name.startswith(FOLDER) else foreign or name.removeprefix(HUB)
        raise _unread(f"the tokenizer of teacher {name} cannot be loaded", source, error) from error


def trial_tokenizer(name: str) -> Any:
    """CLIP's own tokenizer in place of one of the Hub's, its ids brought into that one's range: random weights know no
    words, so trials need no network.

    Raises:
        ConfigError, C2SError: as `model_config`.
    """
    text = model_config(name)["text_cfg"]
    if not text.get("hf_tokenizer_name"):
        return load_tokenizer(name)
    tokenizer = require("open_clip", "build").SimpleTokenizer(
        context_length=text.get("context_length", 77)
    )
    return lambda sentences: tokenizer(sentences) % text["vocab_size"]


def _unread(what: str, source: str, error: Exception) -> C2SError:
    """That a part of a text tower cannot be had from a folder or a repository of the hub, and what to do."""
    first = str(error).strip().partition("\n")[0]
    folder = Path(source.removeprefix(FOLDER))
    if source.startswith(FOLDER) or folder.is_dir():
        hint = f"Its files (config.json, tokenizer.json and the like) must lie in {folder}, without code of its own."
    else:
        hint = fetch((source, WORDS))
        if not hub_answers():
            first = f"{source} is not on this machine, and {no_answer()}."
    return C2SError(f"{what}: {first}", hint)
