"""Invariant: what a change of request costs follows from fingerprints alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from c2s_cache.fingerprint import difference
from c2s_cache.manifest import Manifest


@dataclass(frozen=True)
class Change:
    """What separates the manifest of a cache from the one that is wanted.

    `settings` are lines `stage.key: have -> want`; `stale` the stages of the cache that another
    request made, `kept` those that stay as they are, `new` those that must be computed.
    """

    settings: tuple[str, ...]
    stale: tuple[str, ...]
    kept: tuple[str, ...]
    new: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.settings)

    def __str__(self) -> str:
        shown = "".join(f"\n  {line}" for line in self.settings[:12])
        more = len(self.settings) - 12
        return shown + (f"\n  and {more} more" if more > 0 else "")


def change(have: Manifest, want: Manifest) -> Change:
    """Compare the manifest of a cache with the one that is wanted."""
    old, new = have.fingerprints, want.fingerprints
    kept = tuple(s for s in want.stage_names if old.get(s) == new[s])
    return Change(
        settings=tuple(difference(_settings(have), _settings(want))),
        stale=tuple(s for s in have.stage_names if s not in kept),
        kept=kept,
        new=tuple(s for s in want.stage_names if s not in kept),
    )


def _settings(manifest: Manifest) -> dict[str, Any]:
    content = manifest.model_dump(mode="json", exclude={"format", "stages"})
    content["parts"] = {str(i): part for i, part in enumerate(content["parts"])}
    asked = {stage.name: {**stage.settings, **stage.given} for stage in manifest.stages}
    return {**content, "stages": list(asked), **asked}
