"""gallery.png and ladder.png: how a scene becomes a lesson, what is learnt from it, and the main table seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from c2s.demo.picture import telling_scenes
from c2s.demo.teacher_naming import on_black
from c2s.demo.teacher_report import scene_pseudo_mask
from c2s.evaluation.evaluate import predictor
from c2s.evaluation.overlay import palette
from c2s.evaluation.vocabulary import foreign_vocabulary
from c2s.runs.run import open_run
from c2s.shapes.scenes import CLASSES, MIN_AREA, RENAMED, SIZE, UNSEEN, render
from c2s.text_tower import class_embeddings
from c2s_pipeline.build.builder import load_teacher
from c2s_pipeline.build.request import BuildRequest
from c2s_pipeline.teachers.base import Teacher
from c2s_pipeline.teachers.templates import SINGLE
from c2s_pipeline.teachers.text import class_embeddings as teacher_words

CROPS = 4
"""Regions of a scene that are shown, the largest first."""
LATENT = np.array([[255, 225, 25], [230, 25, 200], [70, 240, 240], [170, 255, 60]], np.uint8)
"""Colours of latent classes, which have no name; bright, as those of classes are muted by comparison."""
TITLES = ("scene", "pseudo mask:\nlatent classes bright", "what the teacher calls the regions")


def draw_gallery(run: Path, request: BuildRequest, out: Path, scenes: int = 4) -> None:
    """Draw, a held-out scene a row: the scene, its pseudo mask, its regions with what the teacher calls them, and what
    the student calls its parts in words that no training of it has seen.

    Args:
        run: run folder.
        request: of the cache it was trained from.
        out: file to write.
        scenes: how many.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    teacher, _ = load_teacher(request)
    opened = open_run(run)
    words = foreign_vocabulary(
        opened, [(w,) for w in RENAMED], class_embeddings(opened, RENAMED), CLASSES
    )
    student = predictor(opened, words, mode="whole", device="cpu")
    figure = plt.figure(figsize=(13, 2.1 * scenes + 0.5))
    grid = figure.add_gridspec(
        scenes, 3 + CROPS, width_ratios=[1.4, 1.4, *([1] * CROPS), 1.4], hspace=0.25, wspace=0.06,
        left=0.01, right=0.99, top=1 - 0.55 / (2.1 * scenes + 0.5), bottom=0.02,
    )  # fmt: skip
    for row, index in enumerate(telling_scenes(scenes)):
        scene = render("val", index)
        pseudo = scene_pseudo_mask(teacher, scene, request.stage("masks").settings)
        guess = student.predict(scene.image)
        axes = [figure.add_subplot(grid[row, column]) for column in range(3 + CROPS)]
        for axis in axes:
            axis.set_axis_off()
        axes[0].imshow(scene.image)
        axes[1].imshow(painted(pseudo), interpolation="nearest")
        shown = named_regions(teacher, scene.image, pseudo)
        for axis, (view, name) in zip(axes[2:], shown, strict=False):
            axis.imshow(view, interpolation="nearest")
            axis.set_title(name, fontsize=9, pad=3)
        axes[-1].imshow(palette(len(CLASSES))[guess], interpolation="nearest")
        for x, y, word in labelled_parts(guess):
            axes[-1].text(
                x, y, word, fontsize=8, ha="center", va="center",
                bbox={"facecolor": "white", "alpha": 0.75, "pad": 1, "linewidth": 0},
            )  # fmt: skip
        if row == 0:
            for axis, title in zip(axes[:2], TITLES, strict=False):
                axis.set_title(title, fontsize=10)
            axes[-1].set_title("the student's words,\nnone of its training", fontsize=10)
            left, right = (axes[i].get_position() for i in (2, 1 + CROPS))
            middle = (left.x0 + right.x1) / 2
            figure.text(middle, right.y1 + 0.045, TITLES[2], fontsize=10, ha="center")
    figure.savefig(out, dpi=130)
    plt.close(figure)


def painted(pseudo: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Colours for seen classes, bright ones for latent classes, white for neither: uint8 [H, W, 3]."""
    latent = pseudo - len(CLASSES)
    out = np.full((*pseudo.shape, 3), 255, np.uint8)
    seen = (pseudo >= 0) & (latent < 0)
    out[seen] = (palette(len(CLASSES))[pseudo[seen]] * 0.75).astype(np.uint8)
    out[latent >= 0] = LATENT[latent[latent >= 0] % len(LATENT)]
    return out


def named_regions(
    teacher: Teacher, image: NDArray[np.uint8], pseudo: NDArray[np.int16]
) -> list[tuple[NDArray[np.uint8], str]]:
    """The largest regions of a pseudo mask as the teacher is shown them, and its word for each."""
    ids, counts = np.unique(pseudo[pseudo >= 0], return_counts=True)
    kept = ids[np.argsort(-counts)][:CROPS]
    views = [on_black(image, pseudo == i) for i in kept]
    text = teacher_words(teacher.text, CLASSES, SINGLE)
    tokens = teacher.embed_images(np.stack(views)).numpy()
    names = [CLASSES[i] for i in (tokens @ text.T).argmax(1)]
    texts = [f"{name} (unseen)" if name in UNSEEN else name for name in names]
    return list(zip(views, texts, strict=True))


def labelled_parts(guess: NDArray[np.integer]) -> list[tuple[float, float, str]]:
    """Where to write which word on a prediction: the pixel of each class of a fair size that lies deepest within it."""
    found = []
    for c in np.unique(guess):
        mask = guess == c
        if mask.sum() >= 2 * MIN_AREA * SIZE * SIZE:
            depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            found.append((float(x), float(y), RENAMED[int(c)]))
    return found


def draw_ladder(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw hIoU of the rows of a table: a dot for every seed, a line for their mean, a diamond for the paper's figure.

    Args:
        rows: of a report, see `c2s.ablation.report.grid_facts`.
        out: file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(1.5 * len(rows) + 1, 3.6))
    for place, row in enumerate(rows):
        values = [run["hIoU"] for run in row["runs"]]
        spread = (np.arange(len(values)) - (len(values) - 1) / 2) * 0.08
        axis.scatter(place + spread, values, color="tab:blue", s=28, zorder=3)
        axis.hlines(np.mean(values), place - 0.25, place + 0.25, color="tab:blue", linewidth=1.5)
        if row["paper"]:
            axis.scatter(
                place, row["paper"]["hIoU"], marker="D", s=30, color="none", edgecolor="0.4"
            )
    axis.scatter([], [], color="tab:blue", s=28, label="a seed; line: mean")
    axis.scatter(
        [], [], marker="D", s=30, color="none", edgecolor="0.4", label="paper (COCO-Stuff)"
    )
    axis.set_xticks(range(len(rows)), [row["name"] for row in rows])
    axis.set_ylim(0, 100)
    axis.set_ylabel("hIoU, %")
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(out, dpi=130)
    plt.close(figure)
