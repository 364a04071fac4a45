"""One step in a process of its own: `python -m c2s.gpu.child FUNCTION FOLDER RESULT`.

Invariant: RESULT appears whole or not at all; without it the step ended by something that no Python sees.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import math
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from c2s.cpu_runtime import prepare
from c2s.gpu.processes import volunteer_for_the_oom_killer
from c2s.gpu.world import Failed, Skipped, World, open_world


def main(function: str, folder: str, result: str) -> None:
    """Run the function on the world of that folder and write what came of it."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # where does it hang?
    volunteer_for_the_oom_killer()
    prepare()
    module, _, name = function.partition(":")
    found: dict[str, Any]
    try:
        call: Callable[[World], dict[str, Any]] = getattr(importlib.import_module(module), name)
        world = open_world(Path(folder))
        found = {"state": "passed", "figures": call(world)}
        if "torch" in sys.modules:
            found |= world.card_memory()
    except Skipped as reason:
        found = {"state": "skipped", "sentence": str(reason), "figures": reason.figures}
    except BaseException as error:
        traceback.print_exc()
        figures = error.figures if isinstance(error, Failed) else {}
        found = {"state": "failed", "sentence": sentence(error), "figures": figures}
    part = Path(result + ".part")
    part.write_text(json.dumps(plain(found), allow_nan=False), encoding="utf-8")
    part.rename(result)


def plain(value: Any) -> Any:
    """The value as JSON has it: numbers of numpy as Python's, those that are not finite as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def sentence(error: BaseException) -> str:
    """The error in one line."""
    lines = str(error).strip().splitlines() or [""]
    known = isinstance(error, Failed)
    return (lines[0] if known else f"{type(error).__name__}: {lines[0]}".rstrip(": "))[:300]


if __name__ == "__main__":
    main(*sys.argv[1:])
