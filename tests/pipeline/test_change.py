"""Changing a request, in place or into a derived cache, against a build from scratch."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from small_builds import contents, nested, request

from c2s.config import merge
from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s.text import cached_text
from c2s_cache import Cache, ConfigError, open_cache
from c2s_cache.integrity import verify
from c2s_pipeline.build.derive import derive
from c2s_pipeline.build.request import recorded_request, request_model
from c2s_pipeline.build.resources import Resources
from c2s_pipeline.build.verify import content

CHANGES = {
    "threshold": ({"masks": {"windows": (2, 3), "threshold": 0.5}}, {"masks", "regions"}),
    "windows": ({"masks": {"windows": (3,)}}, {"masks", "regions"}),
    "masking": ({"regions": {"masking": "box"}}, {"regions"}),
    "no dense tier": ({"dense": "none"}, set()),
    "another dense tier": ({"dense": "int8"}, {"dense"}),
    "dense size": ({"dense_size": 48}, {"dense", "masks", "regions"}),
    "templates": ({"templates": ("a {}", "the {}")}, {"text"}),
    "unseen": ({}, {"labels", "masks", "regions"}),
    "views": ({"views": 3}, {"views", "global_cls", "dense", "masks", "regions"}),
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


@pytest.mark.slow
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
    assert verify(open_cache(changed), content(open_cache(changed))) == []
    assert report.passes + report.passes_saved == scratch.passes
    assert build(source, wanted, changed).computed == {}
    before = contents(out)
    derived = tmp_path / "derived.zarr"
    settings = recorded_request(Cache(out).manifest).model_dump() | {"teacher": tiny_teacher}
    labelled = partition(emptied, classes) if "labels" in downstream else None
    asked = request_model().model_validate(merge(settings, nested(changes)))
    report = derive(out, asked, derived, Resources(scheduler=scheduler), labelled)
    assert set(report.computed) == downstream
    assert contents(derived) == contents(scratch.path)
    assert (derived / "images/data/c/0/0").samefile(out / "images/data/c/0/0")
    assert derive(out, asked, derived, Resources(scheduler=scheduler), labelled).computed == {}
    assert contents(out) == before


@pytest.mark.slow
def test_random_views_follow_the_partition(build, built_views, tiny_teacher, tmp_path):
    """They are drawn from the annotated pixels, so all but images and text is computed again."""
    out, source = built_views
    changed = shutil.copytree(out, tmp_path / "changed.zarr")
    other, wanted = partition(source.root, (0, 156)), request(tiny_teacher, views=3)
    report = build(other, wanted, changed, update=True)
    assert set(report.computed) == {"labels", "views", "global_cls", "dense", "masks", "regions"}
    assert contents(changed) == contents(build(other, wanted, tmp_path / "scratch.zarr").path)


@pytest.mark.slow
def test_a_derivation_to_imported_text(build, built, tiny_teacher, scheduler, tmp_path):
    """Names and sentences of the base give way to the rows; a wrong file leaves nothing behind."""
    out, source = built
    file = tmp_path / "text.npy"
    classes = Cache(out).manifest.classes
    rows = np.random.default_rng(0).normal(size=(len(classes), 32)).astype(np.float32)
    np.save(file, rows[:-1])
    settings = recorded_request(Cache(out).manifest).model_dump() | {"teacher": tiny_teacher}
    asked = request_model().model_validate(
        settings | {"text": {"embeddings": file, "check": False}}
    )
    derived = tmp_path / "derived.zarr"
    with pytest.raises(ConfigError, match="expected shape"):
        derive(out, asked, derived, Resources(scheduler=scheduler))
    assert not derived.exists()
    np.save(file, rows)
    report = derive(out, asked, derived, Resources(scheduler=scheduler))
    assert report.computed == {"text": 1}
    stored = cached_text(Cache(derived), "all").embeddings
    np.testing.assert_allclose(stored, rows / np.linalg.norm(rows, axis=1)[:, None], rtol=1e-5)
    wanted = request(tiny_teacher, text_embeddings=file, check_text=False)
    assert contents(derived) == contents(build(source, wanted, tmp_path / "scratch.zarr").path)
    both = asked.model_copy(
        update={"text": asked.text.model_copy(update={"templates": "imagenet80"})}
    )
    with pytest.raises(
        ConfigError, match=r"text\.templates has no effect: the embeddings are imported"
    ):
        derive(out, both, tmp_path / "both.zarr", Resources(scheduler=scheduler))


def test_a_derivation_keeps_its_images(built, scheduler, tmp_path):
    out, _ = built
    recorded = recorded_request(Cache(out).manifest)
    few = recorded.model_copy(update={"limit": 2})
    with pytest.raises(ConfigError, match="keeps its 5 images: limit has no effect"):
        derive(out, few, tmp_path / "few.zarr", Resources(scheduler=scheduler))
    link = tmp_path / "link.zarr"
    link.symlink_to(out)
    with pytest.raises(ConfigError, match="cannot be derived into itself"):
        derive(out, recorded, link, Resources(scheduler=scheduler))


def test_what_the_data_set_alone_has_is_not_derived(built, scheduler, tmp_path):
    """It is said before anything is written, with what to do instead."""
    out, _ = built
    recorded = recorded_request(Cache(out).manifest)
    asked = recorded.model_copy(update={"stages": (*recorded.stages, "instances", "captions")})
    with pytest.raises(ConfigError, match="what stage instances and captions of this") as raised:
        derive(out, asked, tmp_path / "derived.zarr", Resources(scheduler=scheduler))
    assert raised.value.hint.endswith("--update --stage instances --stage captions")
    assert not (tmp_path / "derived.zarr").exists()
