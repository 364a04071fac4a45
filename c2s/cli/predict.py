"""`c2s predict`: segment images by any class names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c2s.cli.options import ALLOW_CODE, Mode
from c2s_cache.errors import ConfigError, DataError, MissingExtra, UnreadableImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from c2s.evaluation.inference import Predictor
    from c2s.runs.run import Run

DEFAULT_TEMPLATES = ("a photo of a {}",)
"""For runs whose class embeddings were imported: the paper's."""


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    run: Annotated[Path, typer.Option(help="Run folder, or that of a folded model.")],
    out: Annotated[
        Path, typer.Option(help="Folder for NAME.png (class numbers) and NAME_overlay.png.")
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            help='Class names, e.g. "cat, sofa, grass" [default: the run\'s]. A folded model has its own.'
        ),
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Sliding window, or whole images.")] = Mode.slide,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
) -> None:
    """Segment images by the class that fits each pixel best, out of those named.

    Names the run knows need nothing else; others need the teacher's text tower (c2s[build]).
    """
    from c2s.cli.folders import check_folder
    from c2s.terminal import bar

    check_folder(out)
    files = _image_files(images)
    for file in (file for path in files for file in _outputs(path, out)):
        if file.is_dir():
            raise ConfigError(f"--out {out}: {file} is a folder, where an image is to be written.")
    model, names = _predictor(run, classes, mode, device, allow_code)
    out.mkdir(parents=True, exist_ok=True)
    lost: list[str] = []
    with bar("predict", len(files), "images") as advance:
        for path in files:
            try:
                _segment(path, model, names, out)
            except DataError as error:
                lost.append(str(error))
            else:
                typer.echo(str(out / f"{path.stem}.png"))
            advance(1)
    if lost:
        raise DataError(
            f"{len(lost)} of {len(files)} images could not be segmented: {' '.join(lost)}"
        )


def _image_files(given: list[Path]) -> list[Path]:
    """The images that are meant, those of folders by name.

    Raises:
        ConfigError: a folder holds none, or two outputs would have one name.
    """
    from c2s.datasets.custom import SUFFIXES

    files: list[Path] = []
    for path in given:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)
        if not found:
            raise ConfigError(f"There is no image in {path} ({', '.join(SUFFIXES)}).")
        files += found
    stems = [path.stem for path in files]
    twice = sorted({s for s in stems if stems.count(s) > 1})
    if twice:
        raise ConfigError(
            f"Several images are called {twice[0]}; their outputs would overwrite each other."
        )
    return files


def _segment(path: Path, model: Predictor, names: list[str], out: Path) -> None:
    """Write the label map (8 bits; 16 with more than 254 classes) and the overlay of one image.

    Raises:
        DataError: it cannot be read.
        C2SError: its outputs cannot be written.
    """
    from PIL import Image

    from c2s.cli.folders import write_file
    from c2s.evaluation.overlay import overlay
    from c2s_cache.label_map import label_type
    from c2s_cache.views import decode_image

    try:
        image = decode_image(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    except UnreadableImage as error:
        raise DataError(f"{path}: {error.what}") from error
    labels = model.predict(image, str(path)).astype(label_type(len(names)))
    pictures = (Image.fromarray(labels), overlay(image, labels, names))
    for picture, file in zip(pictures, _outputs(path, out), strict=True):
        content = io.BytesIO()
        picture.save(content, "png")
        write_file(file, content.getvalue())


def _outputs(path: Path, out: Path) -> tuple[Path, Path]:
    """Files of an image's label map and overlay."""
    return out / f"{path.stem}.png", out / f"{path.stem}_overlay.png"


def _predictor(
    run: Path, classes: str | None, mode: Mode, device: str, allow_code: bool
) -> tuple[Predictor, list[str]]:
    """What segments, and the names of the classes it tells apart."""
    from c2s.deploy import SegmentationModel
    from c2s.evaluation.evaluate import compute_device, predictor
    from c2s.evaluation.vocabulary import foreign_vocabulary, own_vocabulary
    from c2s.runs.run import open_run

    names = None if classes is None else class_names(classes)
    if (run / "config.json").is_file():
        if names is not None:
            raise ConfigError(f"The classes of {run} are folded in; drop --classes.")
        folded = SegmentationModel.from_pretrained(run, allow_code=allow_code).to(
            compute_device(device)
        )
        return folded.predictor(mode.value), list(folded.config.classes)
    opened = open_run(run, allow_code)
    words = own_vocabulary(opened)
    if names is not None:
        words = foreign_vocabulary(opened, names, class_embeddings(opened, names))
    return predictor(opened, mode.value, device=device, vocabulary=words), list(words.classes)


def class_names(classes: str) -> list[str]:
    """Names out of "cat, sofa, grass".

    Raises:
        ConfigError: none, one twice, or too many.
    """
    from c2s_cache.label_map import MOST_CLASSES

    names = [name.strip() for name in classes.split(",") if name.strip()]
    if not names or len(names) != len(set(names)):
        raise ConfigError(f"--classes {classes!r} must name distinct classes, separated by commas.")
    if len(names) > MOST_CLASSES:
        raise ConfigError(
            f"--classes names {len(names):,} classes; at most {MOST_CLASSES:,} are possible."
        )
    return names


def class_embeddings(run: Run, names: list[str]) -> NDArray[np.float32]:
    """Text embeddings of class names, float32 [K, D], from the run or else the text tower.

    Names are those of the run's classes or its prompts; others are put into the templates of the run.

    Raises:
        MissingExtra: a name is unknown to the run and the build extra is not installed.
        ConfigError: the teacher's weights are not found under its name, or are others.
    """
    import numpy as np

    from c2s.shapes.defaults import own_teacher

    info = run.info
    known = {
        name: run.embeddings[i]
        for spelling in (info.prompts, info.classes)
        for i, name in enumerate(spelling)
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        try:
            from c2s_pipeline.teachers.text import embed_names

            teacher, templates = info.teacher, info.templates or DEFAULT_TEMPLATES
            name = own_teacher(teacher["name"]) or teacher["name"]
            weights, digest = teacher["pretrained"], teacher["digest"]
            activation = teacher.get("activation")
            found = embed_names(name, weights, unknown, templates, digest, activation)
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"The run has no text embedding of {', '.join(unknown)}; the teacher's text tower "
                f"is needed, but {error.name} is not installed.",
                "Install it with: pip install 'c2s[build]'",
            ) from error
        known |= dict(zip(unknown, found, strict=True))
    return np.stack([known[name] for name in names]).astype(np.float32)
