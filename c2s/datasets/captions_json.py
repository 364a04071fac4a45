"""Captions of images from a file in COCO's form."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock

from c2s.datasets.coco_json import read_json
from c2s_cache import DataError

_one = Lock()


def captions_of(file: Path) -> dict[str, tuple[str, ...]]:
    """Captions by the name of the image's file without its ending; read once in a process, by one thread.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    with _one:
        return _read(file)


@lru_cache(maxsize=2)
def _read(file: Path) -> dict[str, tuple[str, ...]]:
    content = read_json(file)
    try:
        names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        found: dict[str, list[str]] = {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            found[names[annotation["image_id"]]].append(str(annotation["caption"]))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no COCO file of captions: expected images with id and file_name, and annotations with "
            "image_id and caption.",
            "Take captions_train2017.json as annotations_trainval2017.zip has it.",
        ) from error
    return {name: tuple(captions) for name, captions in found.items()}
