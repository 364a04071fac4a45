"""The set-up of `make gpu`, as a step: it may take too long or fail like any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from c2s.gpu.world import Failed, World

ROOT = Path(__file__).parents[2]


def setup(world: World) -> dict[str, Any]:
    """Make the environment; `python` is its interpreter."""
    command = [sys.executable, str(Path(__file__).with_name("environment.py")), str(ROOT)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        raise Failed("The environment cannot be made; gpu.log says at which command it stopped.")
    return {"python": lines[-1], "how": lines[0]}
