"""The cells of a cache's grids (stage `cells`), which methods distil: which of them, and where they lie in a view."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from c2s_cache.errors import ConfigError
from c2s_cache.manifest import Manifest

STAGE, CELLS = "cells", "cells/cls"


def chosen_grids(
    manifest: Manifest, scales: Sequence[int] | None, setting: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The grids whose cells are targets, and the places of these among all cells of the cache, both in its order.

    Args:
        manifest: of a cache with the stage.
        scales: the grids that are asked for; None: all; 1, the image, is no grid.
        setting: that asks for them, for the message.

    Raises:
        ConfigError: the cache does not have one of them.
    """
    have = tuple(manifest.stage(STAGE).settings["scales"])
    wanted = have if scales is None else scales
    lacking = sorted(set(wanted) - set(have) - {1})
    if lacking:
        raise ConfigError(
            f"{setting}: the cache has cells of the grids {list(have)}, not of {lacking}.",
            "Make one that has them: c2s cache derive CACHE --out NEW --set cells.scales="
            f"[{','.join(map(str, sorted({*have, *lacking})))}]",
        )
    ends = accumulate(scale**2 for scale in have)
    places = tuple(
        cell
        for scale, end in zip(have, ends, strict=True)
        if scale in wanted
        for cell in range(end - scale**2, end)
    )
    return tuple(scale for scale in have if scale in wanted), places
