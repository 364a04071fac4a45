"""Steps that behave as badly as any; run in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from c2s.gpu.world import Failed, Skipped


def good(world):
    return {"rate": 3.5, "small": world.small, "apart": float("inf"), "folder": world.folder.name}


def fails(world):
    raise ValueError("this is wrong\nand more of it")


def refuses(world):
    raise Failed("the two differ", {"difference": 0.5})


def declines(world):
    raise Skipped("there is no such library here")


def hangs(world):
    """With a process in a session of its own."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(999)"], start_new_session=True
    )
    (world.folder / "sleeper").write_text(str(child.pid))
    while True:
        time.sleep(1)


def eats(world):
    """A MiB at a time, in a process of its own, until somebody ends it."""
    code = "held = []\nwhile True: held.append(bytearray(b'x') * 2**20)"
    subprocess.run([sys.executable, "-c", code], check=True)


def runs_out(world):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    return {"held": len(bytearray(2**31))}


def dies(world):
    os.kill(os.getpid(), signal.SIGKILL)


def exits(world):
    print("something in C went wrong", flush=True)
    os._exit(7)
