"""What the Shapes teacher calls what it is shown: regions, crops, cells of a grid, close-ups, every patch of a scene.

All figures are per cent of 16 classes named right on held-out scenes by "a photo of a {}", of its own token (`cls`) and
of the mean of its patch tokens (`mean`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s.evaluation.confusion import ConfusionMatrix
from c2s.shapes.crops import boxes_around, cut
from c2s.shapes.scenes import CLASSES, MIN_AREA, RENAMED, SIZE, THINGS, render
from c2s.shapes.web import GREY
from c2s.shapes.words import GENERAL, TIED
from c2s_pipeline.teachers.base import Teacher
from c2s_pipeline.teachers.templates import SINGLE
from c2s_pipeline.teachers.text import class_embeddings

Shown = Iterator[tuple[NDArray[np.uint8], int]]
"""Views uint8 [64, 64, 3], each with the class that it shows."""
Image = NDArray[np.uint8]
Region = Callable[[Image, NDArray[np.bool_]], Image]
BATCH = 100
ZOOMS = (1.0, 2.0, 3.0, 4.0)
SCALES = (1, 2, 3, 4)


# --- what is shown ---


def on_black(image: Image, mask: NDArray[np.bool_]) -> Image:
    """A region as C2S shows it: black around it, in its place."""
    return image * mask[..., None]


def on_grey(image: Image, mask: NDArray[np.bool_]) -> Image:
    """A region as GKC shows it: grey around it, cut to its box."""
    return _boxed(np.where(mask[..., None], image, np.uint8(GREY)), mask)


def unmasked(image: Image, mask: NDArray[np.bool_]) -> Image:
    """The box of a region with all that is in it."""
    return _boxed(image, mask)


def _boxed(image: Image, mask: NDArray[np.bool_]) -> Image:
    box = boxes_around(torch.from_numpy(mask)[None])
    found: Image = cut(torch.from_numpy(image)[None], box)[0].numpy()
    return found


def regions(show: Region, scenes: int, zoom: float = 1.0, split: str = "dev") -> Shown:
    """Every class of every scene that covers MIN_AREA."""
    for index in range(scenes):
        scene = render(split, index, zoom=zoom)
        counts = np.bincount(scene.labels.ravel(), minlength=len(CLASSES))
        for c in np.flatnonzero(counts >= MIN_AREA * SIZE * SIZE):
            yield show(scene.image, scene.labels == c), int(c)


def cells(scale: int, scenes: int, split: str = "dev") -> Shown:
    """All cells of a grid of scale x scale, each with the class that covers most of it."""
    edges = [round(i * SIZE / scale) for i in range(scale + 1)]
    places = [(x, y) for y in range(scale) for x in range(scale)]
    for index in range(scenes):
        scene = render(split, index)
        boxes = torch.tensor([[edges[x], edges[y], edges[x + 1], edges[y + 1]] for x, y in places])
        views = cut(torch.from_numpy(scene.image)[None].expand(len(places), -1, -1, -1), boxes)
        for view, (x0, y0, x1, y1) in zip(views.numpy(), boxes.tolist(), strict=True):
            yield view, int(np.bincount(scene.labels[y0:y1, x0:x1].ravel()).argmax())


# --- what it is called ---


def named(teacher: Teacher, text: NDArray[np.float32], shown: Shown) -> dict[str, float]:
    """Per cent named right, by the teacher's own token (`cls`) and by the mean of its patch tokens (`mean`).

    Args:
        teacher: with projected patch tokens as dense features, at its own size.
        text: float32 [16, D], the words for the classes.
        shown: views and what they show.
    """
    views, classes = zip(*shown, strict=True)
    truth = np.array(classes)
    own, mean = both_tokens(teacher, np.stack(views))
    return {
        name: _percent((tokens @ torch.from_numpy(text).T).argmax(1).numpy() == truth)
        for name, tokens in (("cls", own), ("mean", mean))
    }


def both_tokens(teacher: Teacher, views: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """The teacher's own token and the mean of its patch tokens of views uint8 [n, 64, 64, 3]: float32 [n, D] each."""
    parts = [teacher.dense(views[i : i + BATCH]) for i in range(0, len(views), BATCH)]
    return torch.cat([cls for cls, _ in parts]), torch.cat([t.mean((1, 2)) for _, t in parts])


def by_words(teacher: Teacher, scenes: int) -> dict[str, Any]:
    """Regions on black, called by each list of words; and how far tied words keep to their colours.

    `tied_to_colour`: how often a thing in a colour that its tied word is right of has the greater cosine with it than
    one in another colour, mean over the words (50 = by chance).
    """
    lists = {"names": CLASSES, "general": GENERAL, "held_out": RENAMED}
    views, classes, colours = [], [], []
    for index in range(scenes):
        scene = render("dev", index)
        for name, colour in scene.colours.items():
            c = CLASSES.index(name)
            views.append(on_black(scene.image, scene.labels == c))
            classes.append(c)
            colours.append(colour)
    tokens, _ = both_tokens(teacher, np.stack(views))
    own, truth = torch.nn.functional.normalize(tokens, dim=1).numpy(), np.array(classes)
    text = {name: class_embeddings(teacher.text, words, SINGLE) for name, words in lists.items()}
    found: dict[str, Any] = {n: _percent((own @ t.T).argmax(1) == truth) for n, t in text.items()}
    tied = class_embeddings(teacher.text, tuple(TIED), SINGLE)
    things = [
        (c, colour in tuple(TIED.values())[c], float(token @ tied[c]))
        for token, c, colour in zip(own, truth.tolist(), colours, strict=True)
        if c < len(THINGS) and colour is not None
    ]
    orders = [order for c in range(len(THINGS)) for order in _order(things, c)]
    found["tied_to_colour"] = round(100 * float(np.mean(orders)), 2)
    found["by_word"] = {
        words[c]: _percent(((own @ text[name].T).argmax(1) == truth)[truth == c])
        for name, words in lists.items()
        for c in range(len(CLASSES))
    }
    return found


def dense_iou(teacher: Teacher, scenes: int) -> dict[str, float]:
    """Every patch called by the class whose word is nearest: mean IoU in per cent, of things and of textures."""
    text = torch.from_numpy(class_embeddings(teacher.text, CLASSES, SINGLE))
    confusion = ConfusionMatrix(len(CLASSES))
    for index in range(scenes):
        scene = render("dev", index)
        _, tokens = teacher.dense(scene.image[None])
        names = (tokens[0] @ text.T).argmax(-1).numpy()
        side = SIZE // len(names)
        confusion.update(scene.labels, names.repeat(side, 0).repeat(side, 1))
    iou = 100 * confusion.metrics(()).iou
    count = len(THINGS)
    return {
        "things": round(float(np.nanmean(iou[:count])), 2),
        "textures": round(float(np.nanmean(iou[count:])), 2),
    }


def naming(teacher: Teacher, scenes: int = 200) -> dict[str, Any]:
    """All that is shown, by both tokens, as the teacher's card stores it; the teacher pools by its own token."""
    text = class_embeddings(teacher.text, CLASSES, SINGLE)
    kinds: dict[str, Shown] = {
        "on_black": regions(on_black, scenes),
        "grey_box": regions(on_grey, scenes),
        "unmasked_box": regions(unmasked, scenes),
        **{f"zoom_{z:g}": regions(on_black, scenes // 2, z) for z in ZOOMS},
        **{f"cells_{s}": cells(s, scenes // 2) for s in SCALES},
    }
    return {kind: named(teacher, text, shown) for kind, shown in kinds.items()}


def _order(things: Sequence[tuple[int, bool, float]], wanted: int) -> list[float]:
    """Share of pairs of a fitting and another thing of a class that its word orders rightly, if there are any."""
    fits, others = (
        np.array([score for c, fit, score in things if c == wanted and fit == right])
        for right in (True, False)
    )
    pairs = fits[:, None] > others
    return [float(pairs.mean())] if pairs.size else []


def _percent(right: NDArray[np.bool_]) -> float:
    return round(100 * float(right.mean()), 2)
