"""Where the labelled images that score a running student come from."""

from __future__ import annotations

from itertools import islice

from c2s.datasets import load_dataset
from c2s.datasets.registry import NAMES
from c2s.runs.config import TrainConfig
from c2s.training.validation import ValidationSet
from c2s_cache import Manifest
from c2s_cache.errors import ConfigError


def load_validation_set(config: TrainConfig, manifest: Manifest) -> ValidationSet:
    """Images of the data set that a cache was built from, for `c2s.training.run.train`.

    Args:
        config: of the run, with `validation`.
        manifest: of the cache; it names the data set and its classes.

    Raises:
        ConfigError: the data set's classes are not those of the cache, or the split is empty.
        DataError: the data set is not there.
    """
    asked = config.validation
    assert asked is not None
    own_folder = manifest.dataset not in NAMES
    if own_folder and asked.root is None:
        raise ConfigError(
            f"{manifest.dataset} is a folder of your own; where it lies only you know.",
            "Name it: --set validation.root=FOLDER",
        )
    name = str(asked.root) if own_folder else manifest.dataset
    data = load_dataset(name, None if own_folder else asked.root)
    if data.classes != manifest.classes:
        raise ConfigError(f"{name} has other classes than the cache {config.cache}.")
    items = list(islice(data.split(asked.split), asked.limit))
    if not items:
        raise ConfigError(f"The split {asked.split} of {name} has no image to score.")
    return ValidationSet(items, data.protocol)
