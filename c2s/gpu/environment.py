"""An environment for the steps: beside an installed torch from carried wheels, else this checkout's own.

Run as a file by any Python, before c2s can be imported: `python c2s/gpu/environment.py ROOT`; its last line
of output is the interpreter.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

WHEELS, VENV = Path(".gpu/wheels"), Path(".gpu/venv")
NOTE = "wheels.json"
"""Beside the wheels: for which Python they are, and of which commit the sources were then."""


def note(root: Path) -> dict[str, str]:
    """What was noted when the wheels were collected; empty if there are none."""
    try:
        found: dict[str, str] = json.loads((root / WHEELS / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def fits(root: Path) -> str | None:
    """Why the carried wheels cannot be used by this interpreter; None if they can."""
    wanted, here = note(root).get("python"), "{}.{}".format(*sys.version_info)
    if wanted is None:
        return f"there are no wheels in {WHEELS}"
    if wanted != here:
        return f"the wheels are for Python {wanted} and this is {here}"
    if importlib.util.find_spec("torch") is None:
        return f"{sys.executable} has no torch to install the wheels beside"
    return None


def beside_torch(root: Path) -> Path:
    """Install the wheels, and c2s from its sources, beside the packages of this interpreter; returns that of
    the new environment. No network is touched."""
    wheels, venv = sorted((root / WHEELS).glob("*.whl")), root / VENV
    python, ready = venv / "bin/python", venv / "ready"
    state = hashlib.sha256(
        repr([sys.executable, str(root), *map(str, wheels)]).encode()
    ).hexdigest()
    if ready.is_file() and ready.read_text(encoding="utf-8") == state:
        return python
    shutil.rmtree(venv, ignore_errors=True)
    # Debian's Python makes none with pip unless another package is there.
    _run(sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", venv)
    # This interpreter may be of a virtual environment itself: the new one sees its packages after its own,
    # which --system-site-packages does not give.
    site = venv / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    own = dict.fromkeys(sysconfig.get_path(key) for key in ("purelib", "platlib"))
    (site / "beside.pth").write_text("".join(f"{path}\n" for path in own), encoding="utf-8")
    pip = (python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-cache-dir")
    quiet = (
        "--no-warn-conflicts",
        "--ignore-installed",
        "--no-compile",
        "--disable-pip-version-check",
    )
    _run(*pip, *quiet, *wheels)
    # What the sources say they need may be stricter than what they do with what is installed here.
    _run(*pip, *quiet, "--no-build-isolation", "--editable", root)
    ready.write_text(state, encoding="utf-8")
    return python


def own(root: Path) -> Path:
    """This checkout's own environment, made by `make setup` where it is not ready."""
    _run("make", "--directory", root, "setup", f"PYTHON={sys.executable}")
    return root / ".venv/bin/python"


def _run(*command: object) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    top = Path(sys.argv[1])
    reason = fits(top)
    print(reason or f"beside the torch of {sys.executable}", flush=True)
    try:
        print(beside_torch(top) if reason is None else own(top))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd[:6])} ... ended with code {error.returncode}")
