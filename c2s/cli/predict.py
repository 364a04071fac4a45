"""`c2s predict`: segment images by any class names."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from c2s.class_list import understood
from c2s.cli.options import ALLOW_CODE
from c2s.cli.settings import (
    ConfigOption,
    Mode,
    PredictConfig,
    SetOption,
    Synonyms,
    option,
    settled,
)
from c2s_cache.errors import ConfigError, DataError, UnreadableImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from c2s.evaluation.inference import Predictor

FACTS = "predict.json"


def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, videos, or folders of images.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for NAME.png (class numbers; 16 bits with more than 254 classes), NAME_overlay.png, of a "
            "video NAME/FRAME.png and NAME/FRAME_overlay.png, and predict.json (classes and settings)."
        ),
    ],
    run: Annotated[Path | None, option(PredictConfig, "run")] = None,
    classes: Annotated[str | None, option(PredictConfig, "classes")] = None,
    teacher_weights: Annotated[str | None, option(PredictConfig, "teacher_weights")] = None,
    synonyms: Annotated[Synonyms | None, option(PredictConfig, "synonyms")] = None,
    mode: Annotated[Mode | None, option(PredictConfig, "mode")] = None,
    frames: Annotated[int | None, option(PredictConfig, "frames")] = None,
    device: Annotated[str | None, option(PredictConfig, "device")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print predict.json, and no names.")
    ] = False,
) -> None:
    """Segment images, and the frames of videos, by the class that fits each pixel best, out of those named.

    Names the run knows need nothing else; others need the teacher's text tower (c2s[build]). With --frames N the
    frames of a video go through the student N at a time, and so do the images of a folder.
    """
    asked = settled(PredictConfig, config, set_, locals())
    from c2s.cli.folders import check_folder, write_file
    from c2s.datasets.video_file import is_video, require_av
    from c2s.terminal import bar

    check_folder(out)
    files = _image_files(images)
    if any(is_video(path) for path in files):
        require_av()
    _check_outputs(images, files, out)
    model, names = _predictor(asked, allow_code)
    facts = {"config": asked.model_dump(mode="json"), "classes": names}
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / FACTS, (json.dumps(facts, indent=2) + "\n").encode())
    lost: list[str] = []
    several = 0
    with bar("predict", len(files), "images") as advance:
        for group in _together(files, asked.frames):
            try:
                if is_video(group[0]):
                    done = [_segment_video(group[0], model, names, out, asked.frames)]
                else:
                    done, more = _segment(group, model, names, out, asked.frames, lost)
                    several += more
            except UnreadableImage as error:
                lost.append(str(error))
            else:
                for path in () if json_ else done:
                    typer.echo(str(path))
            advance(len(group))
    if several:
        said = f"{several} images have several frames or pages; the first was taken."
        typer.echo(f"note: {said}", err=True)
    if json_:
        typer.echo(json.dumps(facts))
    if lost:
        raise DataError(
            f"{len(lost)} of {len(files)} images could not be segmented: {' '.join(lost)}"
        )


def _image_files(given: list[Path]) -> list[Path]:
    """The images that are meant, those of folders by name.

    Raises:
        ConfigError: a folder holds none.
    """
    from c2s.datasets.photos import SUFFIXES, list_photos

    files: list[Path] = []
    for path in given:
        if not path.is_dir():
            files.append(path)
            continue
        listing = list_photos(path, deep=False)
        if listing.passed_over is not None:
            typer.echo(f"note: {path}: {listing.passed_over}", err=True)
        if not listing.files:
            raise ConfigError(f"There is no image in {path} ({', '.join(SUFFIXES)}).")
        files += sorted(path / name for name in listing.files.values())
    return list(dict.fromkeys(files))


def _check_outputs(given: list[Path], files: list[Path], out: Path) -> None:
    """Refuse outputs that would replace an image, each other, a folder or what no prediction has written, or lie among
    other frames.

    Raises:
        ConfigError: they would; or the folder of outputs is one of photos, whose next reader would take them for such.
    """
    from c2s.datasets.video_file import is_video

    elsewhere = "Name another folder with --out."
    if any(path.is_dir() and path.resolve() == out.resolve() for path in given):
        raise ConfigError(f"--out {out} is the folder of photos itself.", elsewhere)
    inputs = {path.resolve() for path in files}
    own = (out / FACTS).is_file()
    sources: dict[str, Path] = {}
    for path in files:
        video = is_video(path)
        for file in (_frames_folder(path, out),) if video else _outputs(path, out):
            if video and file.is_dir() and any(file.iterdir()):
                raise ConfigError(
                    f"--out {out}: {file} is for the frames of {path} and holds files.", elsewhere
                )
            if video and file.exists() and not file.is_dir():
                raise ConfigError(
                    f"--out {out}: {file} is a file, where a folder is to be written."
                )
            if not video and file.is_dir():
                raise ConfigError(
                    f"--out {out}: {file} is a folder, where a file is to be written."
                )
            if file.resolve() in inputs:
                raise ConfigError(f"--out {out}: {file} would replace an image.", elsewhere)
            if file.is_file() and not own:
                raise ConfigError(
                    f"--out {out}: {file} is there already, and not from here (no {FACTS}).",
                    elsewhere,
                )
            other = sources.setdefault(file.name, path)
            if other != path:
                raise ConfigError(
                    f"--out {out}: {other} and {path} would both be written as {file.name}.",
                    "Rename one, or segment them into folders of their own.",
                )
    if (out / FACTS).is_dir():
        raise ConfigError(f"--out {out}: {out / FACTS} is a folder, where a file is to be written.")


def _together(files: list[Path], frames: int) -> Iterator[list[Path]]:
    """Videos alone, and images of a folder that follow each other, so many together at most."""
    from c2s.datasets.video_file import is_video
    from c2s.evaluation.evaluate import batched

    for _, group in groupby(files, lambda path: path if is_video(path) else path.parent):
        yield from map(list, batched(group, frames))


def _segment(
    paths: list[Path], model: Predictor, names: list[str], out: Path, frames: int, lost: list[str]
) -> tuple[list[Path], int]:
    """Write the label maps (8 bits; 16 with more than 254 classes) and the overlays of images that go together.

    Returns:
        The label maps; and how many files have more frames or pages than the one that was taken. What is wrong with
        files that cannot be read goes to `lost`.

    Raises:
        C2SError: outputs cannot be written.
    """
    from c2s.datasets.image_file import image_bytes
    from c2s_cache.picture import opened, rgb, undecodable

    images, several = dict[Path, Any](), 0
    for path in paths:
        try:
            encoded = image_bytes(path)
        except UnreadableImage as error:
            lost.append(str(error))
            continue
        try:
            with opened(encoded, undecodable) as found:
                images[path] = rgb(found.image)
                several += found.more
        except UnreadableImage as error:
            lost.append(f"{path}: {error.what}")
    _write(images, model, names, out, frames)
    return [_outputs(path, out)[0] for path in images], several


def _segment_video(path: Path, model: Predictor, names: list[str], out: Path, count: int) -> Path:
    """Write what `_segment` does for every frame of a video, numbered from 0; so many go together.

    Returns:
        The folder of the frames.

    Raises:
        UnreadableImage: it cannot be read, or from some frame on; those before it are written.
        C2SError: its outputs cannot be written.
    """
    from c2s.datasets.video_file import frames

    folder, coming = _frames_folder(path, out), enumerate(frames(path))
    held = dict[Path, Any]()
    try:
        for number, image in coming:
            folder.mkdir(exist_ok=True)
            held[folder / f"{number:06d}"] = image
            if len(held) == count:
                _write(held, model, names, folder, count)
                held = {}
    except UnreadableImage:
        _write(held, model, names, folder, count)
        raise
    _write(held, model, names, folder, count)
    return folder


def _write(
    images: dict[Path, NDArray[np.uint8]],
    model: Predictor,
    names: list[str],
    out: Path,
    frames: int,
) -> None:
    """Segment images, uint8 RGB [H, W, 3], together if several may be, and write label maps and overlays under the
    names of their paths."""
    from PIL import Image

    from c2s.cli.folders import write_file
    from c2s.evaluation.overlay import overlay
    from c2s_cache.label_map import label_type

    if not images:
        return
    if frames > 1:
        first = str(next(iter(images)))
        found = [best[0] for best in model.best_of_clip([*images.values()], [None], first)]
    else:
        found = [model.predict(image, str(path)) for path, image in images.items()]
    for (path, image), best in zip(images.items(), found, strict=True):
        labels = best.astype(label_type(len(names)))
        pictures = (Image.fromarray(labels), overlay(image, labels, names))
        for picture, file in zip(pictures, _outputs(path, out), strict=True):
            content = io.BytesIO()
            picture.save(content, "png")
            write_file(file, content.getvalue())


def _frames_folder(path: Path, out: Path) -> Path:
    """Where the frames of a video are written."""
    return out / path.stem


def _outputs(path: Path, out: Path) -> tuple[Path, Path]:
    """Files of an image's label map and overlay."""
    return out / f"{path.stem}.png", out / f"{path.stem}_overlay.png"


def _predictor(asked: PredictConfig, allow_code: bool) -> tuple[Predictor, list[str]]:
    """What segments, and the names of the classes it tells apart."""
    from c2s.cli.frames import check_frames
    from c2s.cli.runs import opened_run
    from c2s.cli.vocabulary import run_vocabulary
    from c2s.deploy import SegmentationModel
    from c2s.evaluation.evaluate import compute_device, predictor

    if (asked.run / "config.json").is_file():
        if asked.frames > 1:
            raise ConfigError(
                "A folded model looks at every frame alone; drop --frames, or name the run."
            )
        if asked.classes is not None:
            raise ConfigError(f"The classes of {asked.run} are folded in; drop --classes.")
        folded = SegmentationModel.from_pretrained(asked.run, allow_code=allow_code)
        model = folded.to(compute_device(asked.device)).predictor(asked.mode)
        return model, list(folded.config.classes)
    opened = opened_run(asked.run, allow_code)
    if asked.frames > 1:
        check_frames(opened)
    words = run_vocabulary(opened, asked.classes, weights=asked.teacher_weights)
    if asked.synonyms == "mean":
        words = words.averaged()
    if asked.classes is not None:
        typer.echo(understood(" | ".join(names) for names in words.names), err=True)
    model = predictor(opened, words, mode=asked.mode, device=asked.device)
    return model, list(words.classes)
