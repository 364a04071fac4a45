"""Options that several `c2s cache` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c2s_cache.errors import ConfigError


def local_path(value: str) -> Path:
    """A folder of this machine that a cache is written to.

    Raises:
        ConfigError: nothing, or the URL of a store.
    """
    if not value:
        raise ConfigError("--out is empty.", "Name the folder of the cache.")
    if "://" in value:
        raise ConfigError(
            f"--out {value}: a cache is built on a local disk.",
            "Build it there and copy the finished folder: readers open it by its URL.",
        )
    return Path(value)


def check_machine(workers: int | None, scheduler: str | None) -> None:
    """Refuse to count workers that another started.

    Raises:
        ConfigError: both are given.
    """
    if workers is not None and scheduler is not None:
        raise ConfigError(
            "--workers has no effect beside --scheduler, whose workers are there already."
        )


DatasetOption = Annotated[
    str, typer.Option(help="Data set (see c2s data list), or your own folder with a classes.yaml.")
]
SplitFileOption = Annotated[
    Path | None, typer.Option(help="YAML file with `unseen:`, class names or ids.")
]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the data set, or the one that holds it [C2S_DATA].")
]
SplitOption = Annotated[str, typer.Option(help="Split to build from.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        parser=local_path,
        metavar="PATH",
        help="Cache directory [default: cache/NAME.zarr, by the data set].",
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Method whose stages are built; may be given several times [default: clip-to-seg]."
    ),
]
StageOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Further stage to build: a name, or python:MODULE:CLASS; may be given several times."
    ),
]
OwnStageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stage",
        help="python:MODULE:CLASS of a stage that no package brings; may be given several times.",
    ),
]
ViewsOption = Annotated[
    int | None,
    typer.Option(
        help="Views per image: 1 is CLIP's own canonical view, more are random views (resize ratio, "
        "crop, flip; --set views.augment.ratio=[0.5,2.0]) that training replays [default: 1].",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. masks.threshold=0.8.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Worker processes [default: one per GPU, else 1].")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Running Dask scheduler whose workers see the same paths, e.g. tcp://host:8786.",
    ),
]
AddressArgument = Annotated[
    str, typer.Argument(help="Cache: directory, or URL such as s3://bucket/coco.zarr.")
]
PathArgument = Annotated[Path, typer.Argument(help="Cache directory.")]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        help="open_clip model, such as ViT-B-16 or RN50, local-dir:FOLDER, or hf:OWNER/NAME [default: ViT-B-16]."
    ),
]
PretrainedOption = Annotated[
    str | None,
    typer.Option(
        help="Weight tag, file (a checkpoint, or OpenAI's archive), or 'random'; not for a local-dir "
        "[default: openai]."
    ),
]
MaskTeacherOption = Annotated[
    str | None,
    typer.Option(
        help="Another teacher, whose dense features masks are made of; it needs no text tower [default: --teacher]."
    ),
]
MaskPretrainedOption = Annotated[
    str | None, typer.Option(help="Weight tag or file of --mask-teacher.")
]
MovedMaskTeacherOption = Annotated[
    str | None,
    typer.Option(
        "--mask-teacher", help="The mask teacher of the cache, if it is not where it was."
    ),
]
MovedTeacherOption = Annotated[
    str | None,
    typer.Option("--teacher", help="open_clip model or local-dir, if it is not where it was."),
]
MovedPretrainedOption = Annotated[
    str | None, typer.Option("--pretrained", help="Weight tag or file, if it is not where it was.")
]
DenseOption = Annotated[
    str | None, typer.Option(help="Dense feature tier: none, int8 or float16 [default: float16].")
]
DenseFromOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of dense features [h, w, C] by image id (.npy, .npz, .safetensors, or a Zarr group), in place of "
        "the teacher's."
    ),
]
MasksFromOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of masks by image id, whole numbers [h, w] or bool [n, h, w], in place of clustered ones."
    ),
]
DenseSizeOption = Annotated[
    int | None, typer.Option(help="Input side of the dense pass [default: the native size].")
]
TemplatesOption = Annotated[
    str | None, typer.Option(help="single, zegclip15, imagenet80 or maskclip85 [default: single].")
]
DenseFeaturesOption = Annotated[
    str | None,
    typer.Option(
        help="Tokens that are clustered: plain, pooled, unprojected, penultimate, mid, value, maskclip, qq, kk, vv, "
        "qq-kk or neighbour [default: plain, the paper's]."
    ),
]
CleanNamesOption = Annotated[
    bool, typer.Option("--clean-names", help='Prompt with "potted plant", not "pottedplant".')
]
TextEmbeddingsOption = Annotated[
    Path | None,
    typer.Option(help=".npy of class embeddings, a row per class, in place of the text tower."),
]
UncheckedTextOption = Annotated[
    bool,
    typer.Option(
        "--unchecked-text",
        help="Take these rows even if the teacher takes them for other classes.",
    ),
]
AppendOption = Annotated[
    bool,
    typer.Option(
        "--append",
        help="Add the images that came to the data set since, in blocks of their own; what is there stays as it is.",
    ),
]
LimitOption = Annotated[int | None, typer.Option(help="Only so many images of the split.")]
BatchSizeOption = Annotated[int | None, typer.Option(help="Images per teacher pass.")]
BlockRowsOption = Annotated[int | None, typer.Option(help="Images per block.")]
RecipeOption = Annotated[
    str | None, typer.Option(help="Named settings below --config and --set: paper or best.")
]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
