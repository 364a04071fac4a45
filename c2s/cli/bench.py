"""`c2s bench`: our rates beside a reference's, measured in one process in alternating rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from c2s.cli.options import ALLOW_CODE

app = typer.Typer(
    help="Measure speed against a reference: ratio = ours / reference, higher is better.",
    no_args_is_help=True,
)

TeacherOption = Annotated[
    str | None, typer.Option(help="open_clip ViT model name [default: the bundled one].")
]
PretrainedOption = Annotated[
    str | None, typer.Option(help="Its weights: tag or file [default: random].")
]
CacheOption = Annotated[
    Path | None, typer.Option(help="Cache to read [default: a temporary one of Shapes scenes].")
]
RoundsOption = Annotated[int, typer.Option(min=1, max=1 << 16, help="Timed rounds of each side.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _images(default: int) -> Any:
    return typer.Option(default, min=1, max=1 << 24, help="Images.")


@app.command()
def cluster(
    teacher: TeacherOption = None,
    pretrained: PretrainedOption = None,
    images: int = _images(200),
    rounds: RoundsOption = 5,
    json_: JsonOption = False,
) -> None:
    """K-means: the default backend against scikit-learn image by image (on a GPU cuML as well)."""
    from c2s.bench.cluster import bench_cluster

    _run("cluster", json_, lambda tick: bench_cluster(teacher, pretrained, images, rounds, tick))


@app.command()
def build(
    teacher: TeacherOption = None,
    pretrained: PretrainedOption = None,
    images: int = _images(500),
    dataset: Annotated[str, typer.Option(help="Where the images come from.")] = "shapes",
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    rounds: RoundsOption = 3,
    json_: JsonOption = False,
) -> None:
    """The whole build against the bare teacher passes that it needs."""
    from c2s.bench.build import bench_build

    _run(
        "build",
        json_,
        lambda tick: bench_build(teacher, pretrained, images, rounds, dataset, root, tick),
    )


@app.command()
def loader(
    cache: CacheOption = None,
    images: int = _images(1000),
    batch_size: Annotated[int, typer.Option(min=1, max=1 << 16, help="Samples per batch.")] = 16,
    rounds: RoundsOption = 5,
    json_: JsonOption = False,
) -> None:
    """Batches from a cache against the best of LitData, MosaicML Streaming and WebDataset.

    Those that are installed take part; WebDataset comes with: pip install 'c2s[bench]'.
    """
    from c2s.bench.loader import bench_loader

    _run("loader", json_, lambda tick: bench_loader(cache, images, batch_size, rounds, tick))


@app.command()
def train(
    cache: CacheOption = None,
    teacher: TeacherOption = None,
    pretrained: PretrainedOption = None,
    method: Annotated[str, typer.Option(help="Whose training.")] = "clip-to-seg",
    student: Annotated[str | None, typer.Option(help="Student [default: the data set's].")] = None,
    images: int = _images(500),
    steps: Annotated[int, typer.Option(min=1, max=1 << 24, help="Iterations per round.")] = 20,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=1 << 16, help="Images per iteration.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, max=1024, help="Loader processes.")] = None,
    rounds: RoundsOption = 5,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=32, max=1 << 16, help="Side of the views in pixels [default: the cache's]."
        ),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Also time a compiled student.")
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Also time a student in this memory layout.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Training from a cache against batches in memory, labels alone, and CLIP in the loop.

    Of clip-rc and gkc it also says what the parts of a step take.
    """
    from c2s.bench.train import StudentOption, bench_train

    asked: list[StudentOption] = ["compile"] if compile_ else []
    asked += ["channels_last"] if channels_last else []
    options = (student, images, steps, batch_size, workers, rounds, image_size, asked)
    _run(
        "train",
        json_,
        lambda tick: bench_train(cache, teacher, pretrained, *options, tick, method=method),
    )


@app.command()
def infer(
    run: Annotated[
        Path | None, typer.Option(help="Run to fold [default: a student of random weights].")
    ] = None,
    student: Annotated[str | None, typer.Option(help="Student [default: shapes-net].")] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=1, max=32_767, help="Classes [default: 16 for shapes-net, else 171]."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=32, max=1 << 16, help="Side of the images in pixels [default: 64 or 512]."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=1 << 16, help="Images per pass [default: 16 or 1].")
    ] = None,
    rounds: RoundsOption = 15,
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
    json_: JsonOption = False,
) -> None:
    """The folded student against the stock model with a head of as many classes."""
    from c2s.bench.infer import bench_infer
    from c2s_cache.errors import ConfigError

    if run is not None and (student is not None or classes is not None):
        raise ConfigError("--run brings its student and classes; drop --student and --classes.")
    _run(
        "infer",
        json_,
        lambda tick: bench_infer(run, student, classes, size, batch, rounds, tick, allow_code),
    )


@app.command()
def codecs(
    teacher: TeacherOption = None,
    pretrained: PretrainedOption = None,
    images: int = _images(64),
    rounds: RoundsOption = 3,
    json_: JsonOption = False,
) -> None:
    """Lossless codecs on CLIP's features: ratio and speed, and bytes per image of every tier."""
    from c2s.bench.codecs import bench_codecs

    _run("codecs", json_, lambda tick: bench_codecs(teacher, pretrained, images, rounds, tick))


def _run(name: str, as_json: bool, measure: Callable[[Callable[[int], None]], Any]) -> None:
    from c2s.terminal import bar

    with bar(f"bench {name}", None, "rounds") as tick:
        facts = measure(tick)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        _show(facts)


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from c2s.terminal import print_table

    console = Console()
    for kind, rows in facts.get("codecs", {}).items():
        table = Table(kind, "ratio", "encode MB/s", "decode MB/s")
        for column in table.columns[1:]:
            column.no_wrap = True
        for codec, row in rows.items():
            table.add_row(codec, *(f"{row[k]:.2f}" for k in ("ratio", "encode", "decode")))
        print_table(table)
    if "sides" in facts:
        table = Table("side", f"{facts['unit']} (median)", "rounds")
        table.columns[1].no_wrap = True
        for side, rounds in facts["sides"].items():
            middle = sorted(rounds)[len(rounds) // 2]
            table.add_row(side, f"{middle:.1f}", ", ".join(f"{r:.1f}" for r in rounds))
        print_table(table)
        named = facts["what"]
        console.print(
            f"{named['ours']} / {named['reference']}: {facts['ratio']:.2f}",
            style="bold",
            markup=False,
        )
    skip = {"sides", "codecs", "what", "ours", "reference", "unit", "ratio", "rounds", "bench"}
    for key, value in {**facts, **facts["what"]}.items():
        if key not in skip:
            console.print(f"  {key}: {value}", markup=False, highlight=False)
