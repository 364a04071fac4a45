"""The cache format: schema, fingerprints, shard writer, reader, integrity. Needs no torch, Dask or CLIP."""

from c2s_cache.block import Block, Sample
from c2s_cache.errors import (
    C2SError,
    CacheError,
    ConfigError,
    DamagedError,
    DataError,
    MismatchError,
    MissingExtra,
    UnreadableImage,
)
from c2s_cache.manifest import (
    FORMAT,
    IGNORE,
    ArrayRecord,
    Manifest,
    Part,
    StageRecord,
    TeacherInfo,
)
from c2s_cache.reader import Cache, open_cache

__all__ = [
    "FORMAT",
    "IGNORE",
    "ArrayRecord",
    "Block",
    "C2SError",
    "Cache",
    "CacheError",
    "ConfigError",
    "DamagedError",
    "DataError",
    "Manifest",
    "MismatchError",
    "MissingExtra",
    "Part",
    "Sample",
    "StageRecord",
    "TeacherInfo",
    "UnreadableImage",
    "open_cache",
]
