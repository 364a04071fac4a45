"""`make gpu-wheels`: what a machine with torch, Lightning, timm, transformers and scikit-learn lacks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from c2s.gpu.environment import NOTE, WHEELS
from c2s.gpu.sources import commit, digest

PYTHON = "3.12"
MOST = 56 * 2**20
"""Bytes of all wheels together."""
LACKING = (
    *("zarr", "donfig", "google-crc32c", "numcodecs", "zarrs"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("open-clip-torch", "ftfy", "wcwidth"),
    *("dask", "distributed", "locket", "partd", "tblib", "tornado", "zict"),
    *("webdataset", "braceexpand"),
    # Small ones that such a machine probably has, for the case that it has not.
    *("typer", "annotated-doc", "shellingham", "rich", "markdown-it-py", "mdurl", "pygments"),
    *(
        "einops",
        "jaxtyping",
        "wadler-lindig",
        "psutil",
        "threadpoolctl",
        "regex",
        "click",
        "cloudpickle",
        "msgpack",
    ),
    *("sortedcontainers", "toolz", "urllib3"),
    *("pytest", "pytest-timeout", "iniconfig", "hypothesis", "beartype"),
    *("packaging", "pathspec", "pluggy"),
)
"""Packages at the versions of constraints.txt; the last three `BUILDER` needs."""
BUILDER = ("hatchling", "editables", "trove-classifiers")
"""What installs c2s from its sources."""
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (17, 24, 27, 28, 31, 34)] + ["manylinux2014_x86_64"]


def pinned(constraints: str) -> list[str]:
    """Requirements `name==version` of the lacking packages, from the text of constraints.txt.

    Raises:
        SystemExit: it pins none of one.
    """
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.MULTILINE))
    unknown = [name for name in LACKING if name not in versions]
    if unknown:
        sys.exit(f"constraints.txt has no version of {', '.join(unknown)}")
    return [f"{name}=={versions[name]}" for name in LACKING]


def main(root: Path) -> None:
    """Fill the folder; refuse what is too large to be carried."""
    out = root / WHEELS
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    names = [*pinned((root / "constraints.txt").read_text(encoding="utf-8")), *BUILDER]
    where = [f"--platform={name}" for name in PLATFORMS]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    command += ["--python-version", PYTHON, "--implementation", "cp", *where, "--dest", str(out)]
    subprocess.run([*command, *names], check=True)
    files = sorted(out.glob("*.whl"), key=lambda f: -f.stat().st_size)
    for file in files:
        print(f"{file.stat().st_size / 2**20:8.2f} MiB  {file.name}")
    total = sum(file.stat().st_size for file in files)
    print(f"{total / 2**20:8.2f} MiB  in {WHEELS}, of at most {MOST / 2**20:.0f}")
    if total > MOST:
        shutil.rmtree(out)
        sys.exit(
            f"{total / 2**20:.1f} MiB of wheels cannot be carried: drop a package from LACKING."
        )
    facts = {"python": PYTHON, "commit": commit(root), "sources": digest(root)}
    (out / NOTE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
