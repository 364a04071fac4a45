"""What the Shapes teacher can do on held-out scenes: naming regions, and dense clustering.

    python -m c2s.demo.teacher_report [FOLDER]                 # everything; --write: into the folder's card.json, too
    python -m c2s.demo.teacher_report FOLDER --regions 100     # the names of regions alone, of 100 scenes

Teacher, clustering and pseudo masks are the pipeline's own, so the figures are those of a cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from c2s.datasets.shapes import ShapesSplit
from c2s.demo.teacher_naming import by_words, dense_iou, naming
from c2s.shapes.defaults import TEACHER_FOLDER
from c2s.shapes.scenes import CLASSES, MIN_AREA, SIZE, UNSEEN, Scene, render
from c2s_cache.label_map import without
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_pipeline.clustering.kmeans import create_backend
from c2s_pipeline.clustering.latent import ClusterSettings, latent_grids
from c2s_pipeline.clustering.seeds import annotated_cells
from c2s_pipeline.mask_quality import score_settings
from c2s_pipeline.mask_views import teacher_views
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher
from c2s_pipeline.teachers.templates import SINGLE
from c2s_pipeline.teachers.text import class_embeddings
from c2s_pipeline.teachers.tower import DenseFeatures

UNSEEN_IDS = tuple(CLASSES.index(name) for name in UNSEEN)
NAMED_FEATURES: tuple[DenseFeatures, ...] = ("plain", "value")
THRESHOLDS = (0.6, 0.7, 0.8, 0.9)


def region_accuracy(folder: Path, scenes: int = 500, split: str = "dev") -> dict[str, Any]:
    """Top-1 accuracy in per cent on ground-truth regions (zero fill, full frame) over all classes.

    A region is all pixels of one class, if they cover MIN_AREA; the text is "a photo of a {}".

    Returns:
        `region_top1`, its means `seen` and `unseen`, and `by_class`.
    """
    teacher = load_teacher(TeacherSpec(f"local-dir:{folder}", None))
    text = class_embeddings(teacher.text, CLASSES, SINGLE)
    hits: dict[int, list[bool]] = defaultdict(list)
    for index in range(scenes):
        scene = render(split, index)
        classes = _visible(scene.labels)
        views = np.stack([scene.image * (scene.labels == c)[..., None] for c in classes])
        guesses = (teacher.embed_images(views).numpy() @ text.T).argmax(1)
        for cls, guess in zip(classes.tolist(), guesses.tolist(), strict=True):
            hits[cls].append(guess == cls)

    def percent(ids: list[int]) -> float:
        return round(100 * float(np.mean([hit for c in ids for hit in hits[c]])), 2)

    present = sorted(hits)
    return {
        "region_top1": percent(present),
        "seen": percent([c for c in present if c not in UNSEEN_IDS]),
        "unseen": percent([c for c in present if c in UNSEEN_IDS]),
        "by_class": {CLASSES[c]: percent([c]) for c in present},
    }


def dense_quality(
    folder: Path, size: int, scenes: int = 200, split: str = "dev"
) -> dict[str, dict[str, float]]:
    """Pseudo masks from patch tokens at an input of `size` pixels, per merging threshold.

    Returns:
        threshold -> `oracle_unseen` (IoU of the best latent mask, mean over unseen masks) and
        `purity` (pixels of that latent mask which are of its commonest class), both in per cent,
        and `latents` per scene.
    """
    teacher = load_teacher(TeacherSpec(f"local-dir:{folder}", None, dense_size=size))
    source = ShapesSplit(split)
    scores = score_settings(
        teacher_views(source, teacher, scenes),
        source,
        teacher.info(),
        [ClusterSettings(threshold=t) for t in THRESHOLDS],
        create_backend("torch"),
        groups=("unseen",),
        min_area=MIN_AREA,
    )
    rows = [score.as_dict() for score in scores]
    return {
        f"{row['threshold']}": {
            "oracle_unseen": row["unseen"]["mIoU"],
            "purity": row["unseen"]["purity"],
            "latents": row["unseen"]["latents"],
        }
        for row in rows
    }


def scene_pseudo_mask(teacher: Teacher, scene: Scene, config: ClusterSettings) -> NDArray[np.int16]:
    """Pseudo mask int16 [64, 64] of a scene without its unseen labels, as a build makes it."""
    labels = without(scene.labels, UNSEEN_IDS)
    size = (teacher.dense_size, teacher.dense_size)
    image = Image.fromarray(scene.image).resize(size, Image.Resampling.BICUBIC)
    _, tokens = teacher.dense(np.asarray(image)[None])
    closed = annotated_cells(labels, np.ones(labels.shape, bool), teacher.grid)
    rounded = tokens.numpy().astype(np.float16).astype(np.float32)
    grids = latent_grids(rounded, closed[None], config, create_backend("torch"))
    return pseudo_mask(labels, grids[0], len(CLASSES))


def report(folder: Path) -> dict[str, Any]:
    """Everything above, as the teacher's card stores it."""
    dense: dict[str, Any] = {
        f"dense_{size}": dense_quality(folder, size) for size in (SIZE, 2 * SIZE)
    }
    for features in NAMED_FEATURES:
        spec = TeacherSpec(f"local-dir:{folder}", dense_features=features)
        dense[f"dense_iou_{features}"] = dense_iou(load_teacher(spec), 200)
    words = by_words(load_teacher(TeacherSpec(f"local-dir:{folder}")), 200)
    with tempfile.TemporaryDirectory() as place:
        both = naming(load_teacher(TeacherSpec(f"local-dir:{with_class_token(folder, place)}")))
    return {**region_accuracy(folder), **both, "words": words, **dense}


def with_class_token(folder: Path, place: str) -> Path:
    """A copy of a teacher folder whose images speak by the CLS token."""
    copied = Path(shutil.copytree(folder, Path(place) / folder.name))
    file = copied / "open_clip_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["model_cfg"]["vision_cfg"]["pool_type"] = "tok"
    file.write_text(json.dumps(config), encoding="utf-8")
    return copied


def _visible(labels: NDArray[np.uint8]) -> NDArray[np.intp]:
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES))
    return np.flatnonzero(counts >= MIN_AREA * SIZE * SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=TEACHER_FOLDER)
    parser.add_argument(
        "--regions", type=int, help="name the regions of so many scenes, and no more"
    )
    parser.add_argument("--write", action="store_true", help="write what was measured to card.json")
    args = parser.parse_args()
    if args.regions is not None and args.regions < 1:
        parser.error(f"--regions {args.regions} is not 1 or more")
    card = args.folder / "card.json"
    if not card.is_file():
        parser.exit(1, f"error: there is no teacher in {args.folder}: it has no card.json.\n")
    if args.regions is not None:
        print(json.dumps(region_accuracy(args.folder, args.regions), indent=2))
        return
    measured = report(args.folder)
    if args.write:
        whole = json.loads(card.read_text(encoding="utf-8")) | {"measured": measured}
        card.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
