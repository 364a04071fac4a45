"""A sheet of photos with their label maps drawn over them, and of the crops that training sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from c2s.datasets.split import Split
from c2s.evaluation.overlay import LINE, palette
from c2s_cache import C2SError
from c2s_cache.label_map import LabelMap, size_mismatch
from c2s_cache.picture import decode_image
from c2s_cache.views import canonical_box, crop_image, crop_labels

PANEL, GAP = 200, 6
OPACITY = 0.6
LEGEND = 4
"""Names of a line of the legend."""


def spread(ids: Sequence[str], count: int) -> list[str]:
    """So many of the ids, at even distances."""
    if len(ids) <= count:
        return list(ids)
    return [ids[i * (len(ids) - 1) // max(1, count - 1)] for i in range(count)]


def draw_sheet(
    split: Split, ids: Sequence[str], size: int, columns: int = 2
) -> tuple[Image.Image, list[str]]:
    """Draw images of a split: each the photo, the same with its label map over it and the box of the canonical view
    (of several views an image has, the others are cut at random), and that view as training sees it.

    Args:
        split: of a data set, with label maps or without.
        ids: of the images.
        size: side of a view in pixels.
        columns: images beside each other.

    Returns:
        The sheet; and a sentence for each image that could not be read.
    """
    colours = palette(len(split.classes))
    cells: list[tuple[str, list[Image.Image]]] = []
    shown, lost = np.zeros(len(split.classes), bool), []
    for image_id in ids:
        try:
            panels, found = _panels(split, image_id, size, colours)
            shown[found] = True
        except C2SError as error:
            lost.append(f"{image_id}: {error.what}")
            panels = [Image.new("RGB", (PANEL, PANEL), "mistyrose")]
        cells.append((image_id, panels))
    names = np.flatnonzero(shown).tolist()
    wide, tall = 3 * (PANEL + GAP) + GAP, PANEL + LINE + GAP
    rows, lines = -(-len(cells) // columns), -(-len(names) // LEGEND)
    out = Image.new("RGB", (columns * wide, rows * tall + lines * LINE + GAP), "white")
    draw = ImageDraw.Draw(out)
    for i, (name, panels) in enumerate(cells):
        left, top = i % columns * wide + GAP, i // columns * tall
        draw.text((left, top + 1), name, "black")
        for k, panel in enumerate(panels):
            out.paste(panel, (left + k * (PANEL + GAP), top + LINE))
    for i, class_id in enumerate(names):
        left, top = i % LEGEND * (columns * wide // LEGEND) + GAP, rows * tall + i // LEGEND * LINE
        colour = tuple(int(v) for v in colours[class_id])
        draw.rectangle((left, top + 2, left + LINE - 4, top + LINE - 3), colour)
        mark = " (unseen)" if class_id in split.unseen else ""
        draw.text((left + LINE, top + 1), f"{split.classes[class_id]}{mark}", "black")
    return out, lost


def _panels(
    split: Split, image_id: str, size: int, colours: NDArray[np.uint8]
) -> tuple[list[Image.Image], list[int]]:
    """Photo, photo with label map and box, and view of an image; and the ids of its classes."""
    image = decode_image(split.encoded(image_id))
    height, width = image.shape[:2]
    labels = split.labels(image_id) if split.labelled else np.full((height, width), 255, np.uint8)
    wrong = size_mismatch(labels, height, width)
    if wrong is not None:
        raise C2SError(wrong)
    box = canonical_box(height, width, size)
    view = crop_image(image, box, False, size)
    seen = crop_labels(_small(labels, len(colours)), box, False, size)
    whole = _fitted(_blended(image, labels, colours))
    scale = max(whole.size) / max(height, width)
    edges = [round(v * scale) for v in box]
    edges[2:] = [max(a, b - 1) for a, b in zip(edges[:2], edges[2:], strict=True)]
    ImageDraw.Draw(whole).rectangle(tuple(edges), outline="red", width=2)
    pictures = [_fitted(image), whole, _fitted(_blended(view, seen, colours))]
    return pictures, [i for i in np.unique(labels).tolist() if i < len(colours)]


def _small(labels: LabelMap, classes: int) -> NDArray[np.uint8]:
    """As uint8, where of more than 254 classes those beyond are not drawn in the view."""
    return np.where(labels < min(classes, 255), labels, 255).astype(np.uint8)


def _blended(
    image: NDArray[np.uint8], labels: LabelMap, colours: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Class colours over an image uint8 [H, W, 3]; what is of no class stays as it is, darker."""
    of_class = labels < len(colours)
    table = np.vstack([colours, np.zeros((1, 3), np.uint8)])
    over = table[np.where(of_class, labels, len(colours))]
    mixed: NDArray[np.uint8] = ((1 - OPACITY) * image + OPACITY * over).astype(np.uint8)
    return mixed


def _fitted(pixels: NDArray[np.uint8]) -> Image.Image:
    """Within a panel, proportions kept."""
    image = Image.fromarray(pixels)
    scale = PANEL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)
