"""Invariant: no wait for a worker is without end; one that does not answer is named, slow work never ends a build.

A worker's event loop sends heartbeats from a thread of its own, whatever its other threads compute. Only workers whose
heartbeats do not reach the scheduler count as silent, by looks at them and not by clocks: a build that was itself
halted, with its machine or by Ctrl-Z, looks anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from c2s_cache import C2SError
from c2s_pipeline.extras import require

INTERVAL = 5.0
"""Seconds between two looks at the workers, while none of them has finished anything."""
LOOKS = 12
"""Looks without a heartbeat after which a worker is said to be silent: a minute."""
PATIENCE = 60
"""Looks after which a build without any other worker ends: five minutes, like Dask's own, since a worker that loads
its libraries on a busy machine may well be silent for one."""
AGAIN = "Run the same command again to resume."


class Lost(C2SError):
    """The scheduler, or every worker, is gone or does not answer."""


class Watch:
    """Looks whether workers answer.

    Args:
        client: of the Dask cluster.
        tell: is told of silent workers while others go on.
    """

    def __init__(self, client: Any, tell: Callable[[str], None]) -> None:
        self._client, self._tell = client, tell
        self._seen: dict[str, object] = {}
        self._missed: dict[str, int] = {}
        self._nobody = self._unanswered = 0

    def look(self) -> None:
        """Count the heartbeats that did not come.

        Raises:
            Lost: no worker has answered for five minutes, or there was none for one.
        """
        workers = self._workers()
        if workers is None:
            return
        self._nobody = 0 if workers else self._nobody + 1
        if self._nobody >= LOOKS:
            raise Lost(f"the Dask scheduler at {self._address} has no workers left.", AGAIN)
        for name, facts in workers.items():
            heartbeat = facts.get("last_seen")
            self._missed[name] = (
                self._missed.get(name, 0) + 1 if self._seen.get(name) == heartbeat else 0
            )
            self._seen[name] = heartbeat
        silent = [name for name in workers if self._missed[name] >= LOOKS]
        if silent and min(self._missed[name] for name in workers) >= PATIENCE:
            raise Lost(
                f"{_listed(silent)} did not answer for {PATIENCE * INTERVAL:.0f} s (halted, or cut off), and "
                "there is no other.",
                f"End it. {AGAIN}",
            )
        if any(self._missed[name] == LOOKS for name in silent):
            others = "the others go on" if len(silent) < len(workers) else "waiting for it"
            self._tell(f"{_listed(silent)} did not answer for {LOOKS * INTERVAL:.0f} s; {others}.")

    def _workers(self) -> dict[str, Any] | None:
        """What the scheduler knows of its workers; None if it does not answer."""
        try:
            identity = self._client.sync(
                self._client.scheduler.identity, n_workers=-1, callback_timeout=INTERVAL
            )
        except (TimeoutError, OSError, AttributeError):  # it hangs, is gone, or is being looked for
            self._unanswered += 1
            if self._unanswered >= LOOKS:
                raise Lost(
                    f"the Dask scheduler at {self._address} does not answer any more.", AGAIN
                ) from None
            return None
        self._unanswered = 0
        workers: dict[str, Any] = identity["workers"]
        return workers

    @property
    def _address(self) -> str:
        return str(self._client._start_arg or self._client.cluster.scheduler_address)


def _listed(names: list[str]) -> str:
    more = len(names) - 3
    shown = ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
    return f"worker {shown}" if len(names) == 1 else f"workers {shown}"


def run_all(
    client: Any, submit: Callable[[int], Any], blocks: list[int], tell: Callable[[str], None]
) -> Iterator[Any]:
    """Results of the blocks' tasks as they end; raises the first failure.

    Args:
        client: of the Dask cluster.
        submit: submits the task of a block and returns its future.
        blocks: what to do. Twice as many as there are threads are queued, also for workers that join.
        tell: is told of workers that do not answer.

    Raises:
        Lost: nobody is there to do them.
    """
    distributed = require("distributed", "build")
    waiting, alive, watch = iter(blocks), set[Any](), Watch(client, tell)
    ended: SimpleQueue[Any] = SimpleQueue()

    def fill() -> None:
        for block in itertools.islice(waiting, max(2 * _threads(client) - len(alive), 0)):
            future = submit(block)
            alive.add(future)
            future.add_done_callback(ended.put)

    try:
        fill()
        while alive:
            try:
                future = ended.get(timeout=INTERVAL)
            except Empty:
                watch.look()
                fill()
                continue
            alive.discard(future)
            yield future.result()
            fill()
    except distributed.client.FutureCancelledError as error:
        raise Lost("the Dask scheduler ended while blocks were being built.", AGAIN) from error
    except Lost:
        raise
    except Exception:
        # Whatever failed, blocks under way must end before the lock passes to the next builder.
        while alive:
            try:
                alive.discard(ended.get(timeout=INTERVAL))
            except Empty:
                watch.look()
        raise


def _threads(client: Any) -> int:
    return max(int(sum(client.ncores().values())), 1)
