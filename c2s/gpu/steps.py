"""The steps of `make gpu`, the most valuable first, each with its time box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One thing to be shown.

    Args:
        name: of the step in `STEPS="..."` and in gpu.json.
        function: "module:name" of a function `(World) -> dict` of figures.
        seconds: time box, after which it is killed with all its processes.
        what: it shows, in a few words.
        alone: it measures, so nothing runs beside it.
    """

    name: str
    function: str
    seconds: float
    what: str
    alone: bool = False


def _step(name: str, module: str, seconds: float, what: str, alone: bool = False) -> Step:
    function = name.replace("-", "_")
    return Step(name, f"c2s.gpu.{module}:{function}", seconds, what, alone)


SETUP = _step("setup", "setup", 300, "an environment for the other steps")
MACHINE = _step("machine", "machine", 90, "card, driver, versions, commit")
STEPS: tuple[Step, ...] = ()


def chosen(names: Sequence[str]) -> list[Step]:
    """The steps of those names in their order; all if none is named.

    Raises:
        ValueError: there is no step of such a name; the message lists all.
    """
    unknown = [name for name in names if name not in {s.name for s in STEPS}]
    if unknown:
        known = " ".join(step.name for step in STEPS)
        raise ValueError(f"there is no step {', '.join(unknown)}; the steps are: {known}")
    return [step for step in STEPS if not names or step.name in names]
