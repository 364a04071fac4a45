"""A tiny real cache, written with the cache writer: random scenes of coloured rectangles, random
tokens."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from c2s.methods.clip_to_seg.examples import IGNORED
from c2s.methods.clip_to_seg.examples import PATHS as TRAINING
from c2s_cache.manifest import ArrayRecord, Manifest, Part, StageRecord, TeacherInfo
from c2s_cache.manifest_file import read_manifest
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.views import crop_labels, inside_image
from c2s_cache.writer import BlockWriter, create_cache

CLASSES = ("sky", "grass", "cat", "cow", "road", "tree")
UNSEEN = (3, 5)
SIZE, GRID, DIM = 32, 4, 16
PATHS = TRAINING | {IGNORED}
"""All that any training reads of a block."""


def tiny_manifest(
    rows: int = 11, block_rows: int = 4, views: int = 1, seed: int = 0, **settings: dict[str, Any]
) -> Manifest:
    """What `write_cache` writes; `settings` are those of stages, by name. With some of "dense", it has that stage."""

    settings = {"views": {"count": views}} | settings

    def stage(name: str, upstream: tuple[str, ...], arrays: Arrays, **more: Any) -> StageRecord:
        asked = settings.get(name, {})
        return StageRecord(name=name, settings=asked, upstream=upstream, arrays=arrays, **more)

    grid = ("view", "grid_y", "grid_x")
    tier = settings.get("dense", {}).get("tier", "int8")
    dense = {"dense/tokens": ArrayRecord(axes=(*grid, "dense_channel"), dtype=tier, chunk=1)}
    if tier == "int8":
        dense["dense/scale"] = ArrayRecord(axes=grid, dtype="float16")
    stages = [
        stage("images", (), IMAGES, facts=("parts",), axes={"axis": 2, "byte": 32}),
        stage("labels", ("images",), LABELS, facts=("unseen", "num_classes")),
        stage("views", ("images",), VIEWS, facts=("seed",), axes={"view": views, "edge": 4}),
        stage(
            "global_cls",
            ("views",),
            {"global_cls/cls": ArrayRecord(axes=("view", "channel"), dtype="float16")},
            facts=("teacher.digest", "teacher.precision"),
        ),
        *(
            [stage("dense", ("views",), dense, facts=("teacher.digest",))]
            if "dense" in settings
            else []
        ),
        stage("masks", ("views", "labels"), {"masks/grid": ArrayRecord(axes=grid, dtype="uint8")}),
        stage("regions", ("masks", "labels"), REGIONS, facts=("teacher.digest",)),
        stage(
            "text",
            (),
            {"text/embeddings": ArrayRecord(axes=("class", "channel"), dtype="float32")},
            once=True,
            facts=("teacher.digest", "classes"),
        ),
    ]
    return Manifest(
        dataset="tiny",
        split="train",
        parts=(Part(source={"drawn": seed}, order="0" * 64, rows=rows),),
        classes=CLASSES,
        unseen=UNSEEN,
        block_rows=block_rows,
        seed=seed,
        view_size=SIZE,
        teacher=TeacherInfo(
            name="random",
            pretrained=None,
            digest="0" * 64,
            tower_digest="2" * 64,
            text_digest="1" * 64,
            activation="gelu",
            dim=DIM,
            image_size=SIZE,
            dense_size=SIZE,
            dense_dim=DIM,
            grid=(GRID, GRID),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
        ),
        stages=tuple(stages),
    )


Arrays = dict[str, ArrayRecord]
IMAGES: Arrays = {
    "images/data": ArrayRecord(
        dtype="uint8", end="images/end", chunk=256 << 10, shard=16 << 20, zstd=None
    ),
    "images/end": ArrayRecord(dtype="uint64"),
    "images/size": ArrayRecord(axes=("axis",), dtype="int32"),
    "images/digest": ArrayRecord(axes=("byte",), dtype="uint8", zstd=None),
    "rows/usable": ArrayRecord(dtype="bool"),
    "rows/id_data": ArrayRecord(dtype="uint8", end="rows/id_end", chunk=64 << 10, shard=1 << 20),
    "rows/id_end": ArrayRecord(dtype="uint32"),
}
LABELS: Arrays = {
    "labels/data": ArrayRecord(dtype="uint8", end="labels/end", chunk=1 << 20, shard=64 << 20),
    "labels/ignored": ArrayRecord(dtype="bool", end="labels/end", chunk=1 << 20, shard=64 << 20),
    "labels/end": ArrayRecord(dtype="uint64"),
}
VIEWS: Arrays = {
    "views/box": ArrayRecord(axes=("view", "edge"), dtype="float64"),
    "views/flip": ArrayRecord(axes=("view",), dtype="bool"),
}
REGIONS: Arrays = {
    "regions/cls": ArrayRecord(axes=("channel",), dtype="float16", end="regions/end", chunk=64),
    "regions/id": ArrayRecord(dtype="int16", end="regions/end"),
    "regions/end": ArrayRecord(axes=("view",), dtype="uint32"),
}


def write_cache(
    path: Path,
    rows: int = 11,
    block_rows: int = 4,
    views: int = 1,
    seed: int = 0,
    unseen_text: int | None = None,
) -> Path:
    """Write a complete cache of `rows` scenes; row 2 is quarantined when there are more than 4.

    `unseen_text` seeds other text embeddings of the unseen classes; nothing else changes.
    """
    rng = np.random.default_rng(seed)
    manifest = tiny_manifest(rows, block_rows, views, seed)
    create_cache(path, manifest)
    writer = BlockWriter(path)
    text = rng.normal(size=(len(CLASSES), DIM))
    if unseen_text is not None:
        other = np.random.default_rng(unseen_text).normal(size=text.shape)
        text[list(UNSEEN)] = other[list(UNSEEN)]
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    for block in range(manifest.blocks):
        _write_block(writer, manifest, block, rng)
    writer.write("text", 0, {"text/embeddings": text.astype(np.float32)})
    return path


def grown(before: Manifest, part: Part) -> Manifest:
    """What a manifest is with a part more."""
    values = {name: getattr(before, name) for name in Manifest.model_fields}
    return Manifest(**values | {"parts": (*before.parts, part)})


def grow_cache(path: Path, rows: int, seed: int = 1) -> Path:
    """Add a part of so many scenes to such a cache."""
    before = read_manifest(path)
    part = Part(source={"drawn": seed}, order="1" * 64, rows=rows)
    manifest = grown(before, part)
    create_cache(path, manifest)
    writer, rng = BlockWriter(path), np.random.default_rng(seed)
    for block in range(before.blocks, manifest.blocks):
        _write_block(writer, manifest, block, rng)
    return path


def _write_block(writer: BlockWriter, m: Manifest, block: int, rng: np.random.Generator) -> None:
    rows = m.block_range(block)
    n = len(rows)
    data, labels, ignored, sizes, usable = [], [], [], [], []
    quarantined = [
        {"row": r, "id": f"scene-{r}", "reason": "truncated"} for r in rows if r == 2 and m.rows > 4
    ]
    for row in rows:
        height, width = (int(v) for v in rng.integers(30, 50, 2))
        label = np.full((height, width), 255, np.uint8)
        for cls in rng.choice(
            [c for c in range(len(CLASSES)) if c not in UNSEEN], 2, replace=False
        ):
            y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
            label[y : y + height // 2, x : x + width // 2] = cls
        void = np.zeros(
            (height, width), bool
        )  # every other row; the pixels between are of unseen classes
        void[::2] = label[::2] == 255
        image = (rng.integers(0, 60, (height, width, 3)) + label[..., None] * 20 % 180).astype(
            np.uint8
        )
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        lost = bool(quarantined) and row == 2
        data.append(np.frombuffer(b"" if lost else buffer.getvalue(), np.uint8))
        labels.append(label[:0, :0] if lost else label)
        ignored.append(void[:0, :0] if lost else void)
        sizes.append((0, 0) if lost else (height, width))
        usable.append(not lost)
    boxes = rng.uniform(-6, 6, (n, m.views, 4)) + np.array([0, 0, SIZE, SIZE])
    flips = rng.random((n, m.views)) < 0.5
    grids = rng.integers(0, 3, (n, m.views, GRID, GRID)).astype(np.uint8)
    grids[rng.random(grids.shape) < 0.3] = 255
    ids, ends = [], []
    for i in range(n):
        for v in range(m.views):
            if usable[i]:
                view = crop_labels(labels[i], boxes[i, v], bool(flips[i, v]), SIZE)
                inside = inside_image(*labels[i].shape, boxes[i, v], bool(flips[i, v]), SIZE)
                mask = pseudo_mask(view, grids[i, v], len(CLASSES), inside)
                found = np.unique(mask[mask >= 0])
                ids.extend(found.tolist())
            ends.append(len(ids))
    identity = [f"scene-{r}".encode() for r in rows]
    writer.write(
        "images",
        block,
        {
            "images/data": np.concatenate(data),
            "images/end": np.cumsum([len(d) for d in data]),
            "images/size": np.array(sizes),
            "images/digest": np.frombuffer(
                b"".join(hashlib.sha256(d).digest() if len(d) else bytes(32) for d in data),
                np.uint8,
            ).reshape(n, 32),
            "rows/usable": np.array(usable),
            "rows/id_data": np.frombuffer(b"".join(identity), np.uint8),
            "rows/id_end": np.cumsum([len(i) for i in identity]),
        },
        {"quarantined": quarantined},
    )
    writer.write(
        "labels",
        block,
        {
            "labels/data": np.concatenate([x.reshape(-1) for x in labels]),
            "labels/ignored": np.concatenate([x.reshape(-1) for x in ignored]),
            "labels/end": np.cumsum([x.size for x in labels]),
        },
    )
    writer.write("views", block, {"views/box": boxes, "views/flip": flips})
    writer.write("global_cls", block, {"global_cls/cls": rng.normal(size=(n, m.views, DIM))})
    writer.write("masks", block, {"masks/grid": grids})
    writer.write(
        "regions",
        block,
        {
            "regions/cls": rng.normal(size=(len(ids), DIM)),
            "regions/id": np.array(ids),
            "regions/end": np.array(ends).reshape(n, m.views),
        },
    )
