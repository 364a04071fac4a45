"""`c2s data show NAME --out sheet.png`: pictures of what a data set holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from c2s_cache import ConfigError

if TYPE_CHECKING:
    from c2s.datasets import Dataset

IMAGES = 12


def write_sheet(data: Dataset, split: str | None, out: Path) -> None:
    """Draw some images of a split with their label maps and their views, and say what could not be read.

    Raises:
        ConfigError: the file is no picture's, or cannot be written.
        DataError: the split is not there.
    """
    from c2s.cli.folders import check_file, write_file
    from c2s.evaluation.sheet import draw_sheet, spread

    if out.suffix.lower() not in (".png", ".jpg", ".pdf"):
        raise ConfigError(f"--out {out} must end in .png, .jpg or .pdf.")
    check_file(out)
    part = data.split(split or data.splits[0])
    ids = spread(part.ids, IMAGES)
    sheet, lost = draw_sheet(part, ids, data.protocol.view_size)
    content = io.BytesIO()
    sheet.save(content, {".jpg": "jpeg"}.get(out.suffix.lower(), out.suffix.lower()[1:]))
    write_file(out, content.getvalue())
    typer.echo(f"{out}: {len(ids)} of {len(part):,} images of {part.name}/{part.split}")
    for sentence in lost:
        typer.echo(f"note: {sentence}", err=True)
