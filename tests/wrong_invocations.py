"""Wrong command lines, drawn at random: all commands and options, odd values, things that are there and not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from typer.main import get_command

from c2s.cli.app import app

NUMBERS = (
    "",
    " ",
    "-1",
    "0",
    "1.5",
    "1e3",
    "nan",
    "inf",
    "0x10",
    "010",
    "x",
    "9" * 30,
    "٣",
    "1,2",
    "true",
)
WORDS = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "~",
        ".",
        "..",
        "-",
        "--",
        "=",
        "@",
        "@missing",
        "#1",
        "%s{}",
        "[/red]",
        "[]",
        "{}",
        "null",
    ),
    *(
        "a=b",
        "é\u0301",
        "\udcff",
        "\x07",
        "x" * 3000,
        "🐶",
        "'",
        '"',
        "a,b",
        ",",
        "|",
        "a|",
        ":",
        "nosuch",
        "python:",
    ),
    *(
        "python:.x:f",
        "python:os:system",
        "python:nosuch:X",
        "hf:",
        "hf:a/b/c/d",
        "local-dir:",
        "local-dir:missing",
    ),
    *(
        "s3://",
        "s3://bucket/x",
        "file:///",
        "nosuch://x",
        "://",
        "missing",
        "missing/x",
        "/dev/null/x",
        "\u202e",
    ),
)
KEYS = (
    *(
        "lr",
        "keep",
        "ema",
        "iterations",
        "batch_size",
        "seed",
        "cache",
        "student",
        "method",
        "method.tau",
        "lr_mult",
    ),
    *(
        "method.weights",
        "method.nosuch",
        "nosuch",
        "",
        ".",
        "method.",
        ".tau",
        "validation",
        "validation.every",
    ),
    *(
        "loggers",
        "precision",
        "augment",
        "augment.ratio",
        "name",
        "runs",
        "masks",
        "masks.windows",
        "masks.threshold",
    ),
    *(
        "views",
        "views.count",
        "dense.tier",
        "text.templates",
        "regions",
        "images",
        "teacher",
        "block_rows",
        "Lr",
    ),
)


@cache
def commands() -> list[tuple[tuple[str, ...], Any]]:
    """Every command: its words, and what Typer knows of it."""
    return list(_below(get_command(app), ()))


def _below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _below(command, (*words, name))
        else:
            yield (*words, name), command


def odd_files(folder: Path) -> list[str]:
    """Files and folders that hold nothing of use."""
    contents = {
        "empty.yaml": b"",
        "list.yaml": b"- a\n- 1\n",
        "null.yaml": b"null",
        "twice.yaml": b"lr: 1\nlr: 2\n",
        "open.yaml": b"a: [1, {b: ",
        "tag.yaml": b"!!python/object/apply:os.system ['true']",
        "binary.yaml": bytes(range(256)),
        "utf16.yaml": "lr: 1".encode("utf-16"),
        "deep.yaml": b"[" * 2000,
        "alias.yaml": b"a: &a [*a]\n",
        "number.yaml": b"7",
        "empty.json": b"{}",
        "zeros.npy": bytes(100),
        "photo.png": b"\x89PNG\r\n\x1a\n" + bytes(50),
        "words.txt": b"cat\n\ncat\n\x00",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    return [*contents, "folder", "loop"]


def draw(rng: random.Random, known: Mapping[str, list[str]], files: list[str]) -> list[str]:
    """A command line.

    Args:
        rng: decides all of it.
        known: right values of options and arguments, by name.
        files: names of what is there.
    """
    words, command = rng.choice(commands())
    given, positional = list(words), []
    for parameter in command.params:
        option = parameter.param_type_name == "option"
        if rng.random() > (
            0.9
            if parameter.required or not option
            else 0.25
            if parameter.name not in known
            else 0.6
        ):
            continue
        value = _value(rng, parameter, known, files)
        if not option:
            positional += [value] * rng.choice((1, 1, 1, 2))
        elif parameter.is_flag:
            given.append(rng.choice([*parameter.opts, *parameter.secondary_opts]))
        else:
            given += [parameter.opts[-1], value]
            given += [parameter.opts[-1], value] * (rng.random() < 0.05)
    if rng.random() < 0.05:
        given.append(
            rng.choice(("--nosuch", "--nosuch=1", "-x", "--cache", "--set", "--json=yes", "--hel"))
        )
    for value in positional:
        given.insert(
            rng.randint(len(words), len(given)) if rng.random() < 0.1 else len(given), value
        )
    return given + ["extra"] * (rng.random() < 0.03)


def _value(
    rng: random.Random, parameter: Any, known: Mapping[str, list[str]], files: list[str]
) -> str:
    if parameter.name == "set_":
        value = rng.choice((*NUMBERS, *WORDS))
        return rng.choice((f"{rng.choice(KEYS)}={value}", value))
    if parameter.name in known and rng.random() < 0.75:
        return rng.choice(known[parameter.name])
    if any(kind in str(parameter.type_descriptor.annotation) for kind in ("int", "float")):
        return rng.choice(NUMBERS if rng.random() < 0.8 else WORDS)
    return rng.choice(files if rng.random() < 0.4 else WORDS if rng.random() < 0.8 else NUMBERS)
