"""predictions.png: what the students make of held-out scenes with unseen classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2s.demo.teacher_report import scene_pseudo_mask
from c2s.evaluation.evaluate import predictor
from c2s.evaluation.overlay import palette
from c2s.runs.run import open_run
from c2s.shapes.scenes import CLASSES, MIN_AREA, SIZE, STUFF, THINGS, UNSEEN, render
from c2s_pipeline.build.builder import load_teacher
from c2s_pipeline.build.request import BuildRequest

COLUMNS = ("image", "truth", "pseudo mask")
"""Before a column per row of the table."""


def draw_predictions(
    runs: Mapping[str, Path], request: BuildRequest, out: Path, scenes: int = 5
) -> None:
    """Draw image, truth, pseudo mask and the predictions of every run, one scene a row.

    The pseudo mask is what the build would make of the scene as a training scene: seen labels,
    and latent classes (greys) where there are none.

    Args:
        runs: run folders by row of Table IV.
        request: of the cache they were trained from.
        out: file to write.
        scenes: how many held-out scenes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    teacher, _ = load_teacher(request)
    students = [predictor(open_run(run), mode="whole", device="cpu") for run in runs.values()]
    columns = (*COLUMNS, *runs)
    colours = palette(len(CLASSES))
    greys = np.repeat(np.array([[215], [150], [100], [60]], np.uint8), 3, 1)
    height = 1.85 * scenes + 1.1
    figure, axes = plt.subplots(
        scenes, len(columns), figsize=(1.9 * len(columns), height), squeeze=False
    )
    for row, index in zip(axes, telling_scenes(scenes), strict=True):
        scene = render("val", index)
        pseudo = scene_pseudo_mask(teacher, scene, request.stage("masks").settings)
        panels = [scene.image, colours[scene.labels], _painted(pseudo, colours, greys)]
        panels += [colours[student.predict(scene.image)] for student in students]
        for axis, panel in zip(row, panels, strict=True):
            axis.imshow(panel, interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=11)
    handles = [
        Patch(color=colours[i] / 255, label=f"{name} (unseen)" if name in UNSEEN else name)
        for i, name in enumerate(CLASSES)
    ]
    handles.append(Patch(color="0.6", label="greys: latent classes"))
    figure.legend(handles=handles, loc="lower center", ncols=9, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.75 / height, 1, 1))
    figure.savefig(out, dpi=150)
    plt.close(figure)


def telling_scenes(count: int) -> list[int]:
    """The first held-out scenes that show an unseen thing and unseen stuff of a fair size."""
    found: list[int] = []
    index = 0
    while len(found) < count:
        labels = render("val", index).labels
        pixels = np.bincount(labels.ravel(), minlength=len(CLASSES))
        shown = {CLASSES[c] for c in np.flatnonzero(pixels > 2 * MIN_AREA * SIZE**2)}
        if all(shown & set(UNSEEN) & set(group) for group in (THINGS, STUFF)):
            found.append(index)
        index += 1
    return found


def _painted(
    pseudo: NDArray[np.int16], colours: NDArray[np.uint8], greys: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Colours for seen classes, greys for latent ones, white for neither: uint8 [H, W, 3]."""
    latent = pseudo - len(CLASSES)
    out = np.full((*pseudo.shape, 3), 255, np.uint8)
    seen = (pseudo >= 0) & (latent < 0)
    out[seen] = colours[pseudo[seen]]
    out[latent >= 0] = greys[latent[latent >= 0] % len(greys)]
    return out
