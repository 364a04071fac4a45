"""Building end to end with real workers: contents, resume, damage, refusal, bad input."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import KMeans

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR, RAW_VALUES
from c2s_cache import C2SError, Cache, CacheError, DataError, MismatchError, open_cache
from c2s_cache.augment import AugmentConfig, draw_view, view_rng
from c2s_cache.integrity import verify
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.schema import array_specs
from c2s_cache.views import canonical_box, crop_image, crop_labels, decode_image, inside_image
from c2s_cache.writer import BlockWriter
from c2s_pipeline.build import Machine
from c2s_pipeline.build import build as build_cache
from c2s_pipeline.derive import derive
from c2s_pipeline.merge import merge_clusters
from c2s_pipeline.recorded import load_recorded, recorded_request, recorded_spec
from c2s_pipeline.request import BuildRequest
from c2s_pipeline.seeds import annotated_cells, initial_seeds
from c2s_pipeline.spot_check import sample_rows, spot_check
from c2s_pipeline.teacher import Teacher, TeacherSpec

UNSEEN = set(DESCRIPTOR.unseen)


def request(teacher, **changes):
    settings = {
        "teacher": teacher,
        "block_rows": 2,
        "batch_size": 2,
        "view_size": 32,
        "dense": "float16",
    }
    return BuildRequest(**(settings | {"masks": {"windows": (2, 3)}} | changes))


def contents(path: Path) -> dict[str, str]:
    """Digest of every file, without the one that may differ."""
    files = (f for f in sorted(path.rglob("*")) if f.is_file() and f.name != "provenance.jsonl")
    return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def build(scheduler):
    """`build` on the tests' shared cluster."""
    return partial(build_cache, scheduler=scheduler)


def first_build(build, teacher, folder, views):
    """A cache of five photos in three blocks, and its source."""
    from conftest import make_coco_tree

    root = make_coco_tree(folder / "coco_stuff164k", count=5)
    source = FolderSplit(DESCRIPTOR, root, "train")
    report = build(source, request(teacher, views=views), folder / "coco.zarr")
    assert (report.built, report.reused) == (5, 0)
    return report.path, source


@pytest.fixture(scope="module")
def built(build, tiny_teacher, tmp_path_factory):
    """A cache of canonical views, and its source."""
    return first_build(build, tiny_teacher, tmp_path_factory.mktemp("canonical"), 1)


@pytest.fixture(scope="module")
def built_views(build, tiny_teacher, tmp_path_factory):
    """A cache of three random views per photo, and its source."""
    return first_build(build, tiny_teacher, tmp_path_factory.mktemp("views"), 3)


@pytest.fixture(params=["built", "built_views"])
def any_built(request):
    """Either cache, its source, and how many views it has."""
    return *request.getfixturevalue(request.param), 1 if request.param == "built" else 3


def test_every_stored_value_follows_from_the_photo(any_built, tiny_teacher):
    """Recompute each view from its file with open_clip, scikit-learn and the published steps."""
    out, source, views = any_built
    cache = open_cache(out)
    assert verify(cache) == []
    error = cache.dense_error
    assert error is not None
    assert 0.9999 < error["cosine_min"] <= error["cosine_mean"] <= 1.000001
    assert 0.9 < error["cluster_agreement"] <= 1
    teacher = Teacher(TeacherSpec(tiny_teacher, None))
    dense_tier = np.asarray(cache.array("teacher/dense")[:])
    seen, flips, padded = [], 0, 0
    for b in range(cache.blocks):
        block, ids = cache.read_block(b), cache.ids(b)
        for i, v in np.ndindex(len(block), views):
            s = block.sample(i, v)
            name = ids[s.row - block.start]
            assert s.image == source.encoded(name)
            labels = source.labels(name)
            labels[np.isin(labels, DESCRIPTOR.unseen)] = 255
            np.testing.assert_array_equal(s.labels, labels)
            image = decode_image(s.image)
            box, flip = canonical_box(*image.shape[:2], 32), False
            if views > 1:
                box, flip = draw_view(labels, 32, view_rng(0, s.row, v), AugmentConfig())
            np.testing.assert_array_equal(s.box, box)
            assert s.flip == flip
            view = crop_image(image, box, flip, 32)
            inside = inside_image(*labels.shape, box, flip, 32)
            cls, dense = teacher.dense_features(view[None])
            np.testing.assert_allclose(s.global_cls, cls[0], atol=4e-3)
            np.testing.assert_allclose(dense_tier[s.row, v], dense[0], atol=4e-3)
            small = crop_labels(labels, box, flip, 32)
            closed = annotated_cells(small, inside, (4, 4))
            np.testing.assert_array_equal(s.grid, expected_grid(dense[0].numpy(), closed))
            pseudo = pseudo_mask(small, s.grid, 171, inside)
            for region, token, area in zip(s.region_ids, s.region_cls, s.region_area, strict=True):
                mask = pseudo == region
                assert area == pytest.approx(mask.mean())
                masked = view * mask[..., None]
                want = teacher.cls_tokens(masked[None])[0]
                np.testing.assert_allclose(token, want, atol=4e-3)
            assert set(s.region_ids) == {
                r for r in np.unique(pseudo) if r >= 0 and (pseudo == r).mean() >= 0.0025
            }
            assert not set(np.unique(s.labels)) & UNSEEN
            seen.append((s.row, v))
            flips, padded = flips + flip, padded + (not inside.all())
    assert sorted(seen) == [(row, v) for row in range(5) for v in range(views)]
    if views > 1:
        assert min(flips, 15 - flips, padded, 15 - padded) > 0


def expected_grid(dense, closed):
    grid = np.full(closed.shape, 255, np.uint8)
    seeds = initial_seeds(dense, closed, (2, 3))
    if not len(seeds):
        return grid
    tokens = dense[~closed]
    first = np.array([((t - seeds) ** 2).sum(1).argmin() for t in tokens])
    seeds = seeds[np.unique(first)]
    labels = KMeans(len(seeds), init=seeds, n_init=1, max_iter=10, tol=0).fit_predict(tokens)
    used, labels = np.unique(labels, return_inverse=True)
    centres = np.stack([tokens[labels == i].mean(0) for i in range(len(used))])
    out = np.zeros(len(tokens), np.uint8)
    for number, group in enumerate(merge_clusters(centres, 0.9)):
        out[np.isin(labels, group)] = number
    grid[~closed] = out
    return grid


def test_int8_tier_is_close_to_float16(build, built, tiny_teacher, tmp_path):
    out, source = built
    build(source, request(tiny_teacher, dense="int8"), tmp_path / "int8.zarr")
    coarse = Cache(tmp_path / "int8.zarr")
    scale = np.asarray(coarse.array("teacher/dense_scale")[:], np.float32)[..., None]
    got = np.asarray(coarse.array("teacher/dense")[:]) * scale
    want = np.asarray(Cache(out).array("teacher/dense")[:], np.float32)
    cosine = (got * want).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(want, axis=-1)
    assert cosine.min() > 0.9995


def test_building_again_does_nothing(build, any_built, tiny_teacher):
    out, source, views = any_built
    before = contents(out)
    report = build(source, request(tiny_teacher, views=views), out)
    assert (report.built, report.reused) == (0, 5)
    assert contents(out) == before


def test_a_lost_block_is_rebuilt_to_the_same_bytes(build, any_built, tiny_teacher, tmp_path):
    out, source, views = any_built
    copy = tmp_path / "copy.zarr"
    shutil.copytree(out, copy)
    before = contents(copy)
    (copy / "receipts/regions/000001.json").unlink()
    (copy / "regions/cls/c/1/0/0").write_bytes(b"half written")
    (copy / "regions/cls/c/1/7").mkdir()
    (copy / "regions/cls/c/1/7/0").write_bytes(b"left over")
    with pytest.raises(CacheError, match="incomplete: 21 of 22 block stages"):
        open_cache(copy)
    (copy / "receipts/views/000002.json").unlink()
    report = build(source, request(tiny_teacher, views=views), copy)
    assert (report.built, report.reused) == (3, 2)
    assert contents(copy) == before


def test_another_request_is_refused_with_the_difference(build, built, tiny_teacher):
    out, source = built
    before = contents(out)
    with pytest.raises(MismatchError, match=r"  masks\.threshold: 0\.9 -> 0\.5"):
        build(source, request(tiny_teacher, masks={"windows": (2, 3), "threshold": 0.5}), out)
    assert contents(out) == before


CHANGES = {
    "threshold": ({"masks": {"windows": (2, 3), "threshold": 0.5}}, {"masks", "regions"}),
    "windows": ({"masks": {"windows": (3,)}}, {"masks", "regions"}),
    "masking": ({"regions": {"masking": "box"}}, {"regions"}),
    "no dense tier": ({"dense": "none"}, set()),
    "another dense tier": ({"dense": "int8"}, {"dense"}),
    "dense size": ({"dense_size": 48}, {"teacher", "dense", "masks", "regions"}),
    "templates": ({"templates": ("a {}", "the {}")}, {"text"}),
    "unseen": ({}, {"labels", "masks", "regions"}),
    "views": ({"views": 3}, {"views", "teacher", "dense", "masks", "regions"}),
}
"""Changes of a request, and the stages that depend on each."""
FAST = ("threshold", "templates")


def partition(root, unseen):
    return FolderSplit(dataclasses.replace(DESCRIPTOR, unseen=unseen), root, "train")


def without_files(source, root, downstream):
    """The same data set with zeros in place of all that a change does not need to read."""
    shutil.copytree(source, root)
    needed = "stuffthingmaps_trainval2017" if "labels" in downstream else "nothing"
    for file in root.rglob("*.*"):
        if needed not in file.parts:
            file.write_bytes(bytes(file.stat().st_size))
    return root


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CHANGES]
)
def test_a_change_computes_what_depends_on_it(
    build, built, tiny_teacher, scheduler, tmp_path, name
):
    """In place and derived, against a build from scratch: equal bytes, only stages downstream computed."""
    out, source = built
    changes, downstream = CHANGES[name]
    wanted = request(tiny_teacher, **changes)
    changed = shutil.copytree(out, tmp_path / "changed.zarr")
    classes = (0, 156) if name == "unseen" else DESCRIPTOR.unseen
    source = partition(source.root, classes)
    emptied = without_files(source.root, tmp_path / "data", downstream)
    report = build(partition(emptied, classes), wanted, changed, update=True)
    assert set(report.computed) == downstream
    scratch = build(source, wanted, tmp_path / "scratch.zarr")
    assert contents(changed) == contents(scratch.path)
    assert verify(open_cache(changed)) == []
    assert report.passes + report.passes_saved == scratch.passes
    assert build(source, wanted, changed).computed == {}
    before = contents(out)
    derived = tmp_path / "derived.zarr"
    settings = recorded_request(Cache(out).manifest).model_dump() | {"teacher": tiny_teacher}
    labelled = partition(emptied, classes) if "labels" in downstream else None
    asked = BuildRequest.model_validate(settings | changes)
    report = derive(out, asked, derived, Machine(scheduler=scheduler), labelled)
    assert set(report.computed) == downstream
    assert contents(derived) == contents(scratch.path)
    assert (derived / "images/data/c/0/0").samefile(out / "images/data/c/0/0")
    assert derive(out, asked, derived, Machine(scheduler=scheduler), labelled).computed == {}
    assert contents(out) == before


@pytest.mark.slow
def test_random_views_follow_the_partition(build, built_views, tiny_teacher, tmp_path):
    """They are drawn from the annotated pixels, so all but images and text is computed again."""
    out, source = built_views
    changed = shutil.copytree(out, tmp_path / "changed.zarr")
    other, wanted = partition(source.root, (0, 156)), request(tiny_teacher, views=3)
    report = build(other, wanted, changed, update=True)
    assert set(report.computed) == {"labels", "views", "teacher", "dense", "masks", "regions"}
    assert contents(changed) == contents(build(other, wanted, tmp_path / "scratch.zarr").path)


@pytest.mark.parametrize(
    ("stage", "path", "message"),
    [
        ("teacher", "teacher/global_cls", "the global CLS has cosine"),
        ("masks", "masks/grid", "of the grid cells are as clustering gives them"),
        ("regions", "regions/cls", "a region CLS has cosine"),
        ("regions", "regions/id", "its regions are not those of its label map and grid"),
    ],
)
def test_a_live_check_finds_tokens_of_other_images(
    built, tiny_teacher, tmp_path, stage, path, message
):
    """Values of other rows under valid receipts: no checksum tells, the teacher does."""
    out, _ = built
    teacher = Teacher(TeacherSpec(tiny_teacher, None))
    cache = open_cache(out)
    sound = spot_check(cache, teacher, sample_rows(cache, 9, 0))
    assert sound.findings == ()
    assert sound.rows == (0, 1, 2, 3, 4)
    assert min(sound.global_cosine, sound.region_cosine, sound.grid_agreement) > 0.9999
    copy = shutil.copytree(out, tmp_path / "copy.zarr")
    writer = BlockWriter(copy)
    arrays = cache.read(0, [s.path for s in array_specs(cache.manifest) if s.stage == stage])
    mixed = np.roll(arrays[path].reshape(-1), 5).reshape(arrays[path].shape)
    writer.write(stage, 0, arrays | {path: mixed})
    found = spot_check(open_cache(copy), teacher, [0, 1]).findings
    assert any(message in f.what for f in found)


def test_a_live_check_takes_no_other_teacher(built, tiny_teacher, tmp_path):
    manifest = Cache(built[0]).manifest
    with pytest.raises(CacheError, match="has weights"):
        load_recorded(manifest, recorded_spec(manifest, "ViT-B-32", "random"))
    with pytest.raises(C2SError, match=r"cannot be loaded.*--pretrained FILE.* another way out"):
        load_recorded(manifest, recorded_spec(manifest), "another way out")


KILLED = """
import sys
from pathlib import Path
from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_pipeline.build import build
from c2s_pipeline.request import BuildRequest

if __name__ == "__main__":
    root, out, request = sys.argv[1:]
    build(FolderSplit(DESCRIPTOR, Path(root), "train"), BuildRequest.model_validate_json(request), Path(out))
"""


@pytest.mark.slow
def test_killed_builds_resume_to_the_same_bytes(build, any_built, tiny_teacher, tmp_path):
    """SIGKILL the whole process group at several moments, resume, compare every byte."""
    reference, source, views = any_built
    wanted = request(tiny_teacher, views=views)
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    out = tmp_path / "coco.zarr"
    arguments = [str(source.root), str(out), wanted.model_dump_json()]
    rng = np.random.default_rng()
    kills = 0
    for kill in range(1, 5):
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments], start_new_session=True
        )
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(out.glob("receipts/*/*.json"))) >= 4 * kill - 2:
                time.sleep(float(rng.random()) * 0.05)
                break
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    final = build(source, wanted, out)
    assert final.rows == 5
    assert contents(out) == contents(reference)
    assert verify(open_cache(out)) == []


@pytest.fixture
def source(coco_tree):
    return FolderSplit(DESCRIPTOR, coco_tree(count=4), "train")


@pytest.mark.parametrize("views", [1, 3])
def test_unreadable_photos_are_quarantined(build, source, tiny_teacher, tmp_path, views):
    broken = source.root / "images/train2017/000000000001.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    out = tmp_path / "coco.zarr"
    build(source, request(tiny_teacher, views=views), out)
    cache = open_cache(out)
    assert [q["id"] for q in cache.quarantine] == ["000000000001"]
    assert "cannot be decoded" in cache.quarantine[0]["reason"]
    assert sum(len(cache.read_block(b)) for b in range(cache.blocks)) == 3
    assert verify(cache) == []


def test_unusual_photos_are_read_as_a_viewer_shows_them(build, source, tiny_teacher, tmp_path):
    folder = source.root / "images/train2017"
    files = sorted(folder.iterdir())
    Image.open(files[0]).convert("L").save(files[0])
    Image.open(files[1]).convert("CMYK").save(files[1])
    photo = Image.open(files[2])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees for display
    photo.transpose(Image.Transpose.ROTATE_90).save(files[2], exif=exif, quality=95)
    out = tmp_path / "coco.zarr"
    build(source, request(tiny_teacher), out)
    cache = open_cache(out)
    assert cache.quarantine == []
    for b in range(cache.blocks):
        block, ids = cache.read_block(b), cache.ids(b)
        for i in range(len(block)):
            s = block.sample(i)
            image = decode_image(s.image)
            assert image.shape == (*source.labels(ids[s.row - block.start]).shape, 3)
            if ids[s.row - block.start] == files[2].stem:
                assert np.abs(image.astype(int) - np.asarray(photo)).mean() < 6


def test_label_value_outside_the_classes_stops_the_build(build, source, tiny_teacher, tmp_path):
    file = source.root / "stuffthingmaps_trainval2017/train2017/000000000002.png"
    values = np.asarray(Image.open(file)).copy()
    values[3, 3] = 11
    Image.fromarray(values).save(file)
    out = tmp_path / "coco.zarr"
    with pytest.raises(DataError, match=r"000000000002\.png holds the label value 11"):
        build(source, request(tiny_teacher), out)
    with pytest.raises(CacheError, match="incomplete"):
        open_cache(out)
    values[3, 3] = RAW_VALUES[0]
    Image.fromarray(values).save(file)
    mended = FolderSplit(DESCRIPTOR, source.root, "train")
    with pytest.raises(MismatchError, match=r"  images\.source\.files"):  # other data now
        build(mended, request(tiny_teacher), out)
    shutil.rmtree(out)
    assert build(mended, request(tiny_teacher), out).rows == 4


def test_two_builders_on_one_cache(build, source, tiny_teacher, tmp_path):
    from c2s_cache.lock import build_lock

    out = tmp_path / "coco.zarr"
    with build_lock(out), pytest.raises(CacheError, match="another process is building"):
        build(source, request(tiny_teacher), out)


def test_target_that_is_something_else(build, source, tiny_teacher, tmp_path):
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(CacheError, match="is not a c2s cache"):
        build(source, request(tiny_teacher), tmp_path)
    assert (tmp_path / "file.txt").read_text() == "mine"
