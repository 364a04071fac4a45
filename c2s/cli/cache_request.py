"""Invariant: `c2s cache build` and `c2s cache plan` make the same request of the same options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from c2s.datasets.split import Split
    from c2s_pipeline.build.request import BuildRequest


def cache_request(
    dataset: str,
    root: Path | None,
    split: str,
    split_file: Path | None,
    recipe: str | None,
    config: Path | None,
    assignments: list[str] | None,
    clean_names: bool,
    unchecked_text: bool,
    methods: Sequence[str] = (),
    stages: Sequence[str] = (),
    **options: Any,
) -> tuple[Split, BuildRequest, Path]:
    """What is asked for: the data set's split, the request, and where its cache lies by default.

    Args:
        dataset, root, split, split_file: the data set.
        recipe, config, assignments: settings below the options.
        clean_names, unchecked_text: flags, off by default.
        methods: whose stages are built; default: C2S alone.
        stages: further ones.
        options: fields of a request, and of `OPTIONS`; None leaves what is below.

    Raises:
        ConfigError: an option that has no effect, or that the request refuses.
        MissingExtra: of the libraries that a build needs, one is not installed.
        DataError: see `load_dataset`.
    """
    from c2s.config import merge, require_said_once, resolve
    from c2s.datasets import load_dataset
    from c2s.methods.recipes import load_recipe
    from c2s.methods.registry import DEFAULT, stages_of
    from c2s.shapes.defaults import build_defaults
    from c2s_cache.label_map import label_type
    from c2s_pipeline.extras import require

    require_said_once(assignments or (), {**options, **stage_settings(options)})
    data = load_dataset(dataset, root, split_file)
    if root is not None and data.root is None:
        raise ConfigError(
            f"--root has no effect: {dataset} is drawn on demand and lies in no folder."
        )
    if label_type(len(data.classes)) != "uint8":
        raise ConfigError(
            f"{dataset} has {len(data.classes):,} classes; a cache holds label maps of at most 254.",
            "Score on it what was trained on another: c2s eval --run RUN --dataset DATASET --vocabulary names",
        )
    source = data.split(split)
    require("open_clip", "build")
    require("distributed", "build")
    from c2s_pipeline.build.request import request_model
    from c2s_pipeline.stages.registry import name_of

    options["prompts"] = data.prompts if clean_names else None
    options["check_text"] = False if unchecked_text else None
    suited = {
        "view_size": data.protocol.view_size,
        **build_defaults(dataset, options["teacher"]),
    }
    defaults = suited
    for method in methods or (DEFAULT,):
        defaults = merge(defaults, load_recipe(recipe, method).build)
    built = stages_of(methods or (DEFAULT,))
    asked = tuple(dict.fromkeys([*built, *(name_of(stage) for stage in stages)]))
    given = {key: value for key, value in options.items() if key not in OPTIONS}
    given |= {"stages": asked, **stage_settings(options)}
    request = resolve(request_model(), defaults, config, assignments or (), given)
    return source, request, Path("cache") / f"{data.short}.zarr"


OPTIONS = {
    "views": ("views", "count"),
    "dense": ("dense", "tier"),
    "templates": ("text", "templates"),
    "text_embeddings": ("text", "embeddings"),
    "prompts": ("text", "prompts"),
    "check_text": ("text", "check"),
    "dense_from": ("dense", "folder"),
    "masks_from": ("masks", "folder"),
}
"""Options of the command line that are a setting of a stage."""


def stage_settings(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by stage of those options that are given."""
    groups: dict[str, dict[str, Any]] = {}
    for option, (stage, key) in OPTIONS.items():
        if options.get(option) is not None:
            groups.setdefault(stage, {})[key] = options[option]
    return groups
