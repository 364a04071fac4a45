"""A cache that grows: what is there stays as it is, to the byte, and what came is what a build makes of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import label_map, photo
from PIL import Image
from small_builds import NOTHING, contents, made, no_teacher, request
from tiny_cache import tiny_manifest

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import Cache, CacheError, DataError, MismatchError, open_cache
from c2s_cache.integrity import verify
from c2s_cache.provenance import read_provenance
from c2s_cache.writer import BlockWriter, create_cache
from c2s_pipeline.build.block import BlockComputer
from c2s_pipeline.build.derive import derive
from c2s_pipeline.build.plan import plan_build
from c2s_pipeline.build.request import make_manifest, recorded_request
from c2s_pipeline.build.resources import Resources
from c2s_pipeline.build.rows import new_rows, rows_of
from c2s_pipeline.build.verify import content, sample_rows, spot_check
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

FIRST, LATER = 5, 3
NAMES = [f"{i:012d}" for i in range(FIRST)]


def add(root, names, seed=7):
    """Put further photos into a tree."""
    rng = np.random.default_rng(seed)
    for name in names:
        height, width = (int(v) for v in rng.integers(40, 70, 2))
        photo(rng, height, width).save(root / f"images/train2017/{name}.jpg", quality=90)
        labels = root / "stuffthingmaps_trainval2017/train2017"
        label_map(rng, height, width, [0, 20, 156, 255]).save(labels / f"{name}.png")


def split(root):
    return FolderSplit(DESCRIPTOR, root, "train")


@pytest.fixture
def copied(any_built, tmp_path):
    """A copy of a cache and of its data set; how many views it has."""
    out, source, views = any_built
    root = shutil.copytree(source.root, tmp_path / "data/coco_stuff164k")
    return shutil.copytree(out, tmp_path / "coco.zarr"), root, views


def of_blocks(files):
    """Those files of a cache that belong to a block."""
    return {n: d for n, d in files.items() if not n.endswith("zarr.json") and "metadata" not in n}


def ids_of(cache):
    return [cache.ids(block) for block in range(cache.blocks)]


@pytest.mark.slow
def test_photos_that_came_later_are_further_blocks(build, copied, tiny_teacher, tmp_path):
    out, root, views = copied
    wanted = request(tiny_teacher, views=views)
    before, ids = contents(out), ids_of(Cache(out))
    add(root, ["000000000002b", "0", "x"])  # sorted between the old ones, before and after them
    with pytest.raises(MismatchError, match=r"holds 5 images, and 3 came .* --append"):
        build(split(root), wanted, out)
    assert contents(out) == before
    report = build(split(root), wanted, out, append=True)
    assert (report.rows, report.built, report.reused) == (8, 3, 5)
    after, cache = contents(out), open_cache(out)
    assert of_blocks(before).items() < of_blocks(after).items()
    assert ids_of(cache)[:3] == ids
    assert sorted(i for block in ids_of(cache)[3:] for i in block) == ["0", "000000000002b", "x"]
    assert [len(block) for block in ids_of(cache)] == [2, 2, 1, 2, 1]
    assert verify(cache, content(cache)) == []
    assert [e["parts"] for e in read_provenance(out)] == [[5], [5, 3]]
    assert open_cache(out, parts=1).manifest == Cache(tmp_path / "coco.zarr").manifest.first(1)
    with pytest.raises(CacheError, match="has 2 parts, not 3"):
        open_cache(out, parts=3)
    # The same command finds nothing to do, whichever way, and rows that are computed anew are the same.
    for append in (False, True):
        assert build(split(root), wanted, out, append=append).computed == {}
    for block in (2, 3):
        for stage in ("images", "masks"):
            (out / f"receipts/{stage}/{block:06d}.json").unlink()
        build(split(root), wanted, out)
        assert contents(out) == after
    # A cache grows again, and up to a limit.
    add(root, ["y", "z"])
    assert build(split(root), wanted.model_copy(update={"limit": 9}), out, append=True).built == 1
    assert [part.rows for part in Cache(out).manifest.parts] == [5, 3, 1]
    assert of_blocks(after).items() < of_blocks(contents(out)).items()


@pytest.mark.slow
def test_what_else_reads_a_cache_that_grew(build, built, tiny_teacher, scheduler, tmp_path):
    """A live check of every row, a change in place, and a derivation, which also has the parts."""
    root = shutil.copytree(built[1].root, tmp_path / "data/coco_stuff164k")
    out = shutil.copytree(built[0], tmp_path / "coco.zarr")
    add(root, ["a", "b", "c"])
    broken = root / "images/train2017/b.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    plan = plan_build(split(root), request(tiny_teacher), 2, grown=out)
    assert (plan.images, plan.sampled) == (3, 2)
    build(split(root), request(tiny_teacher), out, append=True)
    cache = open_cache(out)
    assert [entry["id"] for entry in cache.quarantine] == ["b"]
    teacher = load_teacher(TeacherSpec(tiny_teacher, None))
    checked = spot_check(cache, teacher, sample_rows(cache, 99, 0))
    assert (len(checked.rows), checked.findings) == (7, ())
    assert cache.manifest.extent == 9
    assert set(range(9)) - set(checked.rows) == {5, cache.quarantine[0]["row"]}
    changes = {"windows": (2, 3), "threshold": 0.5}
    asked = recorded_request(cache.manifest)
    masks = asked.masks.model_copy(update=changes)
    asked = asked.model_copy(update={"teacher": tiny_teacher, "masks": masks})
    derived = derive(out, asked, tmp_path / "derived.zarr", Resources(scheduler=scheduler))
    assert set(derived.computed) == {"masks", "regions"}
    build(split(root), request(tiny_teacher, masks=changes), out, update=True)
    assert contents(out) == contents(derived.path)
    assert verify(open_cache(out), content(open_cache(out))) == []


@pytest.mark.slow
def test_a_change_and_what_came_since_at_once(build, built, tiny_teacher, tmp_path):
    root = shutil.copytree(built[1].root, tmp_path / "data/coco_stuff164k")
    out = shutil.copytree(built[0], tmp_path / "coco.zarr")
    grown = shutil.copytree(out, tmp_path / "grown.zarr")
    add(root, ["a", "b", "c"])
    other = request(tiny_teacher, masks={"windows": (2, 3), "threshold": 0.5})
    with pytest.raises(MismatchError, match=r"masks\.threshold: 0\.9 -> 0\.5"):
        build(split(root), other, out, append=True)
    build(split(root), other, out, update=True, append=True)
    build(split(root), request(tiny_teacher), grown, append=True)
    build(split(root), other, grown, update=True)
    assert contents(out) == contents(grown)


def test_removed_and_edited_photos_are_named(build, built, tiny_teacher, tmp_path):
    root = shutil.copytree(built[1].root, tmp_path / "data/coco_stuff164k")
    out, before = built[0], contents(built[0])
    images = root / "images/train2017"
    labels = root / "stuffthingmaps_trainval2017/train2017"

    def refused(message):
        with pytest.raises(DataError, match=message):
            build(split(root), request(tiny_teacher), out, append=True)
        assert contents(out) == before

    add(root, ["later"])
    shutil.move(images / "000000000001.jpg", tmp_path)
    refused(r"holds 5 images .*, and 1 of them \(000000000001\) is no longer there.* only grows")
    shutil.move(tmp_path / "000000000001.jpg", images)
    add(root, ["000000000002", "000000000003"])
    refused(r"2 of them \(000000000002, 000000000003\) are not as they were")
    add(root, ["000000000004"])
    shutil.copy(built[1].image_file("000000000002"), images)
    refused(r"3 of them \(000000000002, 000000000003, 000000000004\)")  # its label map
    for file in labels.glob("0*2.png"):
        shutil.copy(built[1].root / file.relative_to(root), file)
    refused(r"2 of them \(000000000003, 000000000004\)")


def test_a_build_that_was_never_finished_does_not_grow(build, copied, tiny_teacher):
    """It is not known which images it would have, until those that came are gone again."""
    out, root, views = copied
    before = contents(out)
    (out / "receipts/images/000001.json").unlink()
    add(root, ["later"])
    wanted = request(tiny_teacher, views=views)
    with pytest.raises(DataError, match=r"was not finished, and coco-stuff/train has other images"):
        build(split(root), wanted, out, append=True)
    (root / "images/train2017/later.jpg").unlink()
    build(split(root), wanted, out)
    assert contents(out) == before


@dataclass
class Squares:
    """Photos of one colour each, without labels."""

    count: int
    name: str = "squares"
    split: str = "train"
    classes: tuple[str, ...] = ()
    unseen: tuple[int, ...] = ()
    labelled: bool = False
    clips: bool = False

    @property
    def ids(self):
        return tuple(sorted(str(i) for i in range(self.count)))

    def identity(self, ids):
        return {"files": list(ids)}

    def encoded(self, image_id):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (int(image_id), 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()


@pytest.mark.slow
@settings(max_examples=25)
@given(
    block_rows=st.integers(1, 5),
    seed=st.integers(0, 3),
    came=st.lists(st.integers(1, 7), min_size=2, max_size=4),
)
def test_old_rows_keep_their_place_and_bytes(tmp_path_factory, block_rows, seed, came):
    """However often a cache grows, and by whatever: each image is one row, where it was from the beginning."""
    out = tmp_path_factory.mktemp("grown") / "a.zarr"
    asked = made(stages=("images",), block_rows=block_rows, seed=seed, batch_size=2)
    place, files = {}, {}
    for number, count in enumerate(np.cumsum(came).tolist(), 1):
        source = Squares(count)
        rows = rows_of(source, asked, out, append=True) if out.exists() else new_rows(source, asked)
        manifest = make_manifest(source, asked, rows.parts, tiny_manifest().teacher)
        create_cache(out, manifest)
        writer, ids = BlockWriter(out), rows.blocks(block_rows)
        lacking = [block for block in range(manifest.blocks) if writer.missing(block)]
        assert lacking == list(manifest.blocks_of(number - 1))
        for block in lacking:
            computer = BlockComputer(manifest, source, no_teacher)
            first = manifest.block_range(block).start
            result = computer.compute(ids[block], first, ("images",), NOTHING)
            writer.write("images", block, result.stages["images"], result.notes["images"])
        cache = open_cache(out)
        found = {
            image_id: row
            for block, names in enumerate(ids_of(cache))
            for row, image_id in zip(manifest.block_range(block), names, strict=True)
        }
        assert sorted(found) == sorted(source.ids)
        assert found.items() >= place.items()
        now = of_blocks(contents(out))
        assert now.items() >= files.items()
        usable = np.flatnonzero(cache.column("rows/usable")).tolist()
        assert usable == sorted(found.values())
        assert rows_of(source, asked, out, append=False) == rows
        assert verify(cache) == []
        place, files = found, now


GROWN = """
import sys
from pathlib import Path
from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.request import request_model

if __name__ == "__main__":
    root, out, request = sys.argv[1:]
    source = FolderSplit(DESCRIPTOR, Path(root), "train")
    build(source, request_model().model_validate_json(request), Path(out), append=True)
"""


@pytest.mark.slow
def test_killed_while_it_grows(build, copied, tiny_teacher, tmp_path):
    """SIGKILL the whole process group at several moments, resume, compare every byte with a growth in one go."""
    out, root, views = copied
    wanted = request(tiny_teacher, views=views)
    add(root, [f"later{i}" for i in range(6)])
    whole = shutil.copytree(out, tmp_path / "whole.zarr")
    before = of_blocks(contents(out))
    build(split(root), wanted, whole, append=True)
    script = tmp_path / "run.py"
    script.write_text(GROWN)
    begun = len(list(out.glob("receipts/*/*.json")))
    kills = 0
    for kill in range(5):
        arguments = [sys.executable, str(script), str(root), str(out), wanted.model_dump_json()]
        process = subprocess.Popen(arguments, start_new_session=True)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            parts = json.loads((out / "zarr.json").read_bytes())["attributes"]["c2s"]["parts"]
            if len(parts) == 2 and len(list(out.glob("receipts/*/*.json"))) >= begun + 4 * kill:
                break
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        assert of_blocks(contents(out)).items() >= before.items()
        assert open_cache(out, parts=1).manifest.rows == FIRST
    assert kills >= 2
    build(split(root), wanted, out, append=bool(views % 2))
    assert contents(out) == contents(whole)
    assert verify(open_cache(out)) == []
