"""Invariant: what somebody computed elsewhere for an image is found by its id, read as numbers, and part of the
fingerprint of what is made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ConfigError, DataError
from c2s_pipeline.source import ImageSource

ENDINGS = (".npy", ".npz", ".safetensors")


class Beside:
    """A data set with folders of what was computed elsewhere for its images.

    Args:
        source: the data set.
        folders: by stage.
        parts: image ids of each part of a cache; empty in a worker, which asks for no digest.
    """

    def __init__(
        self,
        source: ImageSource,
        folders: Mapping[str, Path],
        parts: Sequence[Sequence[str]] = (),
    ) -> None:
        self.source, self.folders, self.parts = source, dict(folders), parts

    def __reduce__(self) -> tuple[type[Beside], tuple[ImageSource, Mapping[str, Path]]]:
        return type(self), (self.source, self.folders)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def digests(self, stage: str) -> list[str]:
        """Of each part, hex SHA-256 over the names and contents of the files for its images."""
        return [_digest(self.folders[stage], ids) for ids in self.parts]


def read_array(source: ImageSource, stage: str, image_id: str) -> NDArray[Any]:
    """What a folder beside a data set holds for an image.

    Raises:
        ConfigError: no folder is named.
        DataError: it has nothing for the image, or what cannot be read as one array.
    """
    folder = getattr(source, "folders", {}).get(stage)
    if folder is None:
        raise ConfigError(
            f"{stage} was imported from a folder, which is not named.",
            f"Name it again: --{stage}-from FOLDER",
        )
    if _is_group(folder):
        import zarr

        try:
            found: Any = zarr.open_group(folder, mode="r")[image_id]
            return np.asarray(found[...])
        except (KeyError, OSError, ValueError) as error:
            raise DataError(f"{folder}: no array for the image {image_id} ({error}).") from error
    file = _file(folder, image_id)
    if file is None:
        raise DataError(f"{folder} has no file for the image {image_id}.")
    return _read(file)


def check_ids(folder: Path, ids: Iterable[str]) -> None:
    """Refuse a folder that lacks images.

    Raises:
        ConfigError: it is none, or lacks some; the first is named.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder of arrays by image id.")
    group = _is_group(folder)
    there = (
        (lambda i: (folder / i / "zarr.json").is_file()) if group else (lambda i: _file(folder, i))
    )
    lacking = [image_id for image_id in ids if not there(image_id)]
    if lacking:
        raise ConfigError(
            f"{folder} has nothing for {len(lacking)} of the images, such as {lacking[0]}.",
            f"Expected {lacking[0]}{ENDINGS[0]} ({', '.join(ENDINGS[1:])}), or a Zarr group with an array of it.",
        )


def any_array(folder: Path) -> NDArray[Any]:
    """One of the arrays of a folder.

    Raises:
        ConfigError, DataError: there is none, or it cannot be read.
    """
    if _is_group(folder):
        import zarr

        for _, array in zarr.open_group(folder, mode="r").arrays():
            return np.asarray(array[...])
    for file in sorted(folder.iterdir()):
        if file.suffix in ENDINGS:
            return _read(file)
    raise ConfigError(f"{folder} holds no array ({', '.join(ENDINGS)}, or a Zarr group).")


def _digest(folder: Path, ids: Iterable[str]) -> str:
    hasher, group = hashlib.sha256(), _is_group(folder)
    for image_id in sorted(ids):
        file = _file(folder, image_id)
        files = sorted((folder / image_id).rglob("*")) if group else [file] if file else []
        for each in (f for f in files if f.is_file()):
            hasher.update(f"{each.relative_to(folder).as_posix()}\n".encode())
            with each.open("rb") as opened:
                hasher.update(hashlib.file_digest(opened, "sha256").digest())
    return hasher.hexdigest()


def _is_group(folder: Path) -> bool:
    return (folder / "zarr.json").is_file()


def _file(folder: Path, image_id: str) -> Path | None:
    files = (folder / f"{image_id}{ending}" for ending in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def _read(file: Path) -> NDArray[Any]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            arrays = list(load_file(file).values())
        else:
            loaded = np.load(file, allow_pickle=False)
            arrays = [loaded] if isinstance(loaded, np.ndarray) else list(loaded.values())
    except Exception as error:  # numpy, zipfile and safetensors fail in many ways
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{file} cannot be read ({reason}).") from error
    if len(arrays) != 1:
        raise DataError(f"{file} holds {len(arrays)} arrays; expected one.")
    return np.asarray(arrays[0])
