"""Invariant: a signal only asks: the iteration that runs is finished, and its checkpoint saved, first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from c2s_cache.errors import C2SError

ALWAYS = frozenset({signal.SIGINT, signal.SIGTERM})
"""Taken over whatever stands there: a shell may have SIGINT ignored in a program in the background."""
ENDING = ALWAYS | {
    getattr(signal, name)
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)  # not on Windows
}
"""What terminals, batch systems and service managers end a program with."""
PATIENCE = 3
"""Ctrl-C so many times ends a training at once: what it waits for may never come."""


class Interrupted(C2SError):
    """Training was asked to stop; what had been reached is in the run's checkpoint.

    Args:
        what, hint: see `C2SError`.
        number: of the signal.
    """

    def __init__(self, what: str, hint: str | None = None, number: int = signal.SIGINT) -> None:
        super().__init__(what, hint)
        self.number = number
        self.exit_code = 128 + number  # as shells have it

    def __reduce__(self) -> tuple[type[C2SError], tuple[Any, ...]]:
        return type(self), (self.what, self.hint, self.number)


class StopRequest:
    """Takes the signals that ask for an end, for as long as it is entered.

    Python gives them to its main thread alone; entered in another one, it takes none. SIGHUP, SIGUSR1,
    SIGUSR2 and SIGXCPU are left to whoever has set them, be it nohup.

    Attributes:
        number: of the signal that came first; 0 if none has.
    """

    def __init__(self) -> None:
        self.number = 0
        self._presses, self._saving = 0, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if number in ALWAYS or signal.getsignal(number) is signal.SIG_DFL:
                    self._before[number] = signal.signal(number, self._ask)
            if hasattr(
                signal, "pthread_sigmask"
            ):  # this process may have been started within `deaf`
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """What happens in here is not cut short, however often Ctrl-C is pressed."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
        self._presses += number == signal.SIGINT
        if self._presses == PATIENCE - 1 and number == signal.SIGINT:
            os.write(2, b"\nFinishing an iteration to save it; Ctrl-C once more gives it up.\n")
        if self._presses >= PATIENCE and not self._saving:
            self._presses = 0
            raise Interrupted("Stopped at once by SIGINT.")


@contextmanager
def deaf() -> Iterator[None]:
    """A process that is started in here gets none of these signals before it says `listen`.

    A signal to a process group reaches the helpers too; when they end is for the process that started
    them to say. What comes to this one meanwhile waits.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has neither masks nor these signals
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def listen() -> None:
    """Hear the signals, also in a process that was started within `deaf`."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
