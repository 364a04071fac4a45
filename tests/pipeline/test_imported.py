"""Dense features and masks that somebody computed elsewhere, by image id."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from small_builds import InMemory, contents, no_teacher

from c2s.datasets import FolderSplit
from c2s_cache import ConfigError, DataError, Manifest, MismatchError, open_cache
from c2s_cache.integrity import verify
from c2s_cache.views import crop_labels, source_cells
from c2s_pipeline.build.block import BlockComputer
from c2s_pipeline.build.builder import build as build_cache
from c2s_pipeline.build.builder import imports
from c2s_pipeline.build.derive import derive
from c2s_pipeline.build.request import build_request, make_manifest, recorded_request
from c2s_pipeline.build.resources import Resources, Silent
from c2s_pipeline.build.rows import new_rows
from c2s_pipeline.clustering.imported_masks import imported_grid, mask_map
from c2s_pipeline.imported import Beside, check_ids, read_array
from c2s_pipeline.stages.registry import recorded_stages
from c2s_pipeline.teachers.registry import load_teacher


@given(
    height=st.integers(4, 60),
    width=st.integers(4, 60),
    cells=st.integers(2, 9),
    flip=st.booleans(),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_map_of_the_size_of_the_image_is_sampled_as_its_labels_are(
    height, width, cells, flip, corners
):
    x0, x1 = sorted((corners[0] * width, corners[1] * width + 1))
    y0, y1 = sorted((corners[2] * height, corners[3] * height + 1))
    box = (x0, y0, min(x1, width), min(y1, height))
    numbers = np.arange(height * width).reshape(height, width) % 251
    rows, cols = source_cells((height, width), numbers.shape, box, flip, cells)
    got = numbers.take(rows, 0).take(cols, 1)
    np.testing.assert_array_equal(got, crop_labels(numbers.astype(np.uint8), box, flip, cells))


def test_maps_of_other_sizes_cover_the_same_image():
    large = np.kron(np.arange(6).reshape(2, 3), np.ones((5, 5), int))
    for flip in (False, True):
        found = []
        for numbers in (large, large[::5, ::5]):
            rows, cols = source_cells((40, 60), numbers.shape, (0.0, 0.0, 60.0, 40.0), flip, 6)
            found.append(numbers.take(rows, 0).take(cols, 1))
        np.testing.assert_array_equal(*found)


def test_masks_are_numbers_or_lie_above_each_other():
    below = np.ones((2, 4, 4), bool)
    below[1, 2:] = False
    above = mask_map(below, "a")
    assert above[0, 0] == 1
    assert above[3, 3] == 0
    assert (mask_map(np.zeros((1, 2, 2), bool), "a") == -1).all()
    assert mask_map(np.array([[0, 255]], np.uint8), "a").tolist() == [[0, -1]]
    assert mask_map(np.array([[3, -7]]), "a").tolist() == [[3, -1]]
    for wrong in (np.zeros((2, 2)), np.zeros((1, 2, 2), int), np.zeros((0, 3, 3), bool)):
        with pytest.raises(DataError, match="image a: expected whole numbers"):
            mask_map(wrong, "a")


def test_latent_ids_have_no_gaps_and_the_largest_comes_first():
    numbers = np.array([[7, 7, 7], [900, 900, 7], [-1, 5, 7]])
    closed = np.zeros((3, 3), bool)
    closed[2, 1] = True
    grid = imported_grid(numbers, (3, 3), (0.0, 0.0, 3.0, 3.0), False, closed)
    assert grid.tolist() == [[0, 0, 0], [1, 1, 0], [255, 255, 0]]
    many = np.arange(400).reshape(20, 20)
    grid = imported_grid(many, (20, 20), (0.0, 0.0, 20.0, 20.0), False, np.zeros((20, 20), bool))
    assert np.unique(grid).tolist() == [*range(254), 255]


class Source:
    def __init__(self, folder):
        self.folders = {"dense": folder}


def test_arrays_are_found_by_their_id_in_every_form(tmp_path):
    value = np.arange(6.0).reshape(1, 2, 3)
    np.save(tmp_path / "a.npy", value)
    np.savez(tmp_path / "b.npz", x=value)
    save_file({"x": value}, tmp_path / "c.safetensors")
    group = zarr.open_group(tmp_path / "group", mode="w")
    group.create_array("d", data=value)
    for name in "abc":
        np.testing.assert_array_equal(read_array(Source(tmp_path), "dense", name), value)
    np.testing.assert_array_equal(read_array(Source(tmp_path / "group"), "dense", "d"), value)
    check_ids(tmp_path / "group", "d")
    check_ids(tmp_path, "abc")
    with pytest.raises(ConfigError, match="nothing for 2 of the images, such as x"):
        check_ids(tmp_path, "axy")
    with pytest.raises(ConfigError, match="is no folder"):
        check_ids(tmp_path / "none", "a")
    with pytest.raises(DataError, match="no array for the image z"):
        read_array(Source(tmp_path / "group"), "dense", "z")
    with pytest.raises(ConfigError, match="--dense-from FOLDER"):
        read_array(object(), "dense", "a")


def test_pickles_and_several_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.zeros(1), y=np.zeros(1))
    (tmp_path / "c.npy").write_bytes(b"nonsense")
    for name, message in (
        ("a", "cannot be read"),
        ("b", "holds 2 arrays"),
        ("c", "cannot be read"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read_array(Source(tmp_path), "dense", name)
        assert "\n" not in str(caught.value)


def test_a_digest_tells_names_and_values_of_its_images_apart(tmp_path):
    def digests(*parts):
        return Beside(object(), {"dense": tmp_path}, parts).digests("dense")

    np.save(tmp_path / "a.npy", np.zeros(3))
    (before,) = digests("a")
    np.save(tmp_path / "b.npy", np.zeros(3))
    assert digests("a", "b")[0] == before
    assert len({*digests("a", "b", "ab")}) == 3
    np.save(tmp_path / "a.npy", np.ones(3))  # of the same size
    assert digests("a") != [before]
    group = zarr.open_group(tmp_path / "group", mode="w")
    group.create_array("a", data=np.zeros(3))
    of_group = Beside(object(), {"dense": tmp_path / "group"}, ["a"])
    first = of_group.digests("dense")
    group.create_array("b", data=np.zeros(3))
    assert of_group.digests("dense") == first
    group["a"][...] = 1
    assert of_group.digests("dense") != first


@pytest.fixture
def folders(source, tmp_path):
    """Features of five channels, and masks, of every image."""
    rng = np.random.default_rng(0)
    for name in ("features", "masks"):
        (tmp_path / name).mkdir()
    for image_id in source.ids:
        np.save(tmp_path / "features" / image_id, rng.standard_normal((7, 9, 5)))
        np.save(tmp_path / "masks" / image_id, rng.integers(-1, 4, (50, 60)))
    return tmp_path / "features", tmp_path / "masks"


def asked(teacher, features=None, masks=None, **more):
    return build_request(
        teacher=teacher,
        view_size=32,
        block_rows=2,
        views={"count": 2},
        **{
            "masks": {"windows": (2,), "folder": masks, "cells": 12}
            if masks
            else {"windows": (2,)},
            **({"dense": {"folder": features, "cells": 6}} if features else {}),
            **more,
        },
    )


def described(source, request) -> Manifest:
    info, rows = load_teacher(request.spec).info(), new_rows(source, request)
    return make_manifest(imports(source, request, rows), request, rows.parts, info)


def test_fingerprints_are_those_of_the_folders(source, folders, tiny_teacher):
    features, masks = folders
    plain = described(source, asked(tiny_teacher)).fingerprints
    brought = described(source, asked(tiny_teacher, features)).fingerprints
    assert {n for n in plain if plain[n] != brought[n]} == {"dense", "masks", "regions"}
    segmented = described(source, asked(tiny_teacher, None, masks)).fingerprints
    assert {n for n in plain if plain[n] != segmented[n]} == {"masks", "regions"}
    np.save(features / source.ids[0], np.zeros((7, 9, 5)))
    again = described(source, asked(tiny_teacher, features)).fingerprints
    assert {n for n in plain if again[n] != brought[n]} == {"dense", "masks", "regions"}
    both = described(source, asked(tiny_teacher, features, masks))
    assert both.stage("masks").upstream == ("views", "labels")
    assert both.stage("masks").facts == both.stage("dense").facts == ()


def computed(source, request, stages=("dense", "masks")):
    """Arrays of one block, without the teacher."""
    manifest = described(source, request)
    rows = new_rows(source, request)
    source = imports(source, request, rows)
    ids = list(rows.ids[0][:2])
    computer = BlockComputer(manifest, source, no_teacher)
    before = [n for n in manifest.stage_names if n in ("images", "labels", "views")]
    result = computer.compute(ids, 0, [*before, *stages], InMemory())
    return manifest, ids, result.stages


def test_no_teacher_is_asked_for_what_is_imported(source, folders, tiny_teacher):
    manifest, ids, made_ = computed(source, asked(tiny_teacher, *folders))
    tokens, grid = made_["dense"]["dense/tokens"], made_["masks"]["masks/grid"]
    assert tokens.shape == (2, 2, 6, 6, 5)
    assert grid.shape == (2, 2, 12, 12)
    assert manifest.axes["dense_channel"] == 5
    features = np.load(folders[0] / f"{ids[0]}.npy").astype(np.float16).reshape(-1, 5)
    cells = {row.tobytes() for row in tokens[0].reshape(-1, 5)}
    assert cells <= {row.tobytes() for row in features}
    stages = recorded_stages(manifest)
    assert not stages["dense"].live
    assert not stages["masks"].live


def test_masks_are_clustered_from_imported_features(source, folders, tiny_teacher):
    manifest, _, made_ = computed(source, asked(tiny_teacher, folders[0]))
    assert made_["masks"]["masks/grid"].shape == (2, 2, 6, 6)
    assert "dense" in manifest.stage("masks").upstream
    assert recorded_stages(manifest)["masks"].live


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((7, 9, 4)), r"expected floating point \[h, w, 5\], got float64 \[7, 9, 4\]"),
        (np.zeros((9, 5)), "expected floating point"),
        (np.zeros((7, 9, 5), int), "expected floating point"),
        (np.full((7, 9, 5), np.nan), "empty or not finite"),
    ],
)
def test_features_of_another_kind_are_refused(source, folders, tiny_teacher, features, message):
    request = asked(tiny_teacher, folders[0])
    last = sorted(source.ids)[-1]
    np.save(folders[0] / last, features)
    manifest, rows = described(source, request), new_rows(source, request)
    found = imports(source, request, rows)
    computer = BlockComputer(manifest, found, no_teacher)
    stages = ["images", "labels", "views", "dense"]
    with pytest.raises(DataError, match=f"image {last}.*{message}"):
        computer.compute(list(rows.ids[0]), 0, stages, InMemory())


def test_cells_of_nothing_are_refused(source, tiny_teacher):
    with pytest.raises(ConfigError, match=r"dense\.cells has no effect: nothing is imported"):
        described(source, asked(tiny_teacher, None, dense={"cells": 8}))


def test_other_tiers_are_refused(source, folders, tiny_teacher):
    request = asked(tiny_teacher, None, dense={"folder": folders[0], "tier": "int8"})
    with pytest.raises(ConfigError, match="imported features are kept in float16"):
        described(source, request)


@pytest.mark.slow
def test_a_cache_of_imports_is_whole_and_can_be_derived_from(
    source, folders, tiny_teacher, tmp_path, scheduler
):
    out, machine = tmp_path / "a.zarr", Resources(None, scheduler, Silent())
    build_cache(source, asked(tiny_teacher, *folders), out, scheduler=scheduler)
    cache = open_cache(out)
    assert verify(cache) == []
    changed = recorded_request(cache.manifest).model_copy(
        update={"teacher": tiny_teacher, "pretrained": None}
    )
    regions = changed.regions.model_copy(update={"fill": "mean"})
    report = derive(
        out, changed.model_copy(update={"regions": regions}), tmp_path / "b.zarr", machine
    )
    derived = open_cache(report.path)
    assert verify(derived) == []
    for name in ("dense", "masks"):
        assert derived.manifest.fingerprints[name] == cache.manifest.fingerprints[name]
    masks = changed.masks.model_copy(update={"threshold": 0.5})
    with pytest.raises(ConfigError, match=r"masks\.threshold has no effect: masks was imported"):
        derive(out, changed.model_copy(update={"masks": masks}), tmp_path / "c.zarr", machine)
    np.save(folders[1] / source.ids[0], np.zeros((3, 3), int))
    again = partial(build_cache, source, asked(tiny_teacher, *folders), out, scheduler=scheduler)
    with pytest.raises(MismatchError, match="masks"):
        again()
    (folders[1] / f"{source.ids[0]}.npy").unlink()
    with pytest.raises(ConfigError, match=f"nothing for 1 of the images, such as {source.ids[0]}"):
        again()


@pytest.mark.slow
def test_a_cache_of_imports_grows(source, folders, tiny_teacher, tmp_path, scheduler):
    """What is there stays, to the byte; of what came, the folders hold something, too."""
    held, out = source.ids[-1], tmp_path / "a.zarr"
    folder, labels = source.image_file(held).parent, source.label_file(held)[0]
    kept = {}
    for file in (source.image_file(held), labels, *(f / f"{held}.npy" for f in folders)):
        kept[file] = file.read_bytes()
        file.unlink()
    build = partial(build_cache, out=out, scheduler=scheduler)
    first = FolderSplit(source.descriptor, source.root, "train")
    build(first, asked(tiny_teacher, *folders))
    before, prints = contents(out), [open_cache(out).manifest.fingerprint("masks", 0)]
    for file, data in kept.items():
        file.write_bytes(data)
    assert folder.is_dir()
    (folders[1] / f"{held}.npy").unlink()
    with pytest.raises(ConfigError, match=f"nothing for 1 of the images, such as {held}"):
        build(source, asked(tiny_teacher, *folders), append=True)
    (folders[1] / f"{held}.npy").write_bytes(kept[folders[1] / f"{held}.npy"])
    report = build(source, asked(tiny_teacher, *folders), append=True)
    assert (report.built, report.reused) == (1, len(source.ids) - 1)
    cache = open_cache(out)
    assert verify(cache) == []
    now = contents(out)
    changed = {f for f in before if now[f] != before[f]}
    assert not [f for f in changed if not f.endswith("zarr.json") and "receipts/metadata" not in f]
    assert prints == [cache.manifest.fingerprint("masks", 0)]
    np.save(folders[1] / first.ids[0], np.zeros((3, 3), int))
    with pytest.raises(MismatchError, match="masks"):
        build(source, asked(tiny_teacher, *folders))
