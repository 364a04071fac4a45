"""Self-training starts from half an inductive run; an inductive run cannot reach the unseen classes."""

from __future__ import annotations

import gc
import json
import os
import signal
from dataclasses import replace
from types import BuiltinFunctionType, FunctionType, ModuleType

import numpy as np
import pytest
import tiny_runs
import torch
from conftest import make_coco_tree
from PIL import Image
from safetensors.torch import load_file
from small_builds import made
from tiny_cache import UNSEEN, tiny_manifest, write_cache

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s.methods.clip_to_seg import SelfTraining
from c2s.runs.checkpoint import HALFWAY, RunError
from c2s.runs.config import load_config
from c2s.runs.folder import read_config
from c2s.runs.run import open_run
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.text import cached_text
from c2s.training import run
from c2s.training.datamodule import C2SDataModule
from c2s.training.logs import read_metrics
from c2s.training.recorder import Recorder
from c2s.training.self_training import inherited
from c2s_cache import open_cache
from c2s_cache.errors import ConfigError
from c2s_cache.writer import BlockWriter

STEPS = 4


def settings(cache, runs, defaults=None, **more):
    options = {"iterations": STEPS, "batch_size": 2}
    return tiny_runs.settings(cache, runs, defaults, **(options | more))


@pytest.fixture(scope="module")
def inductive(tiny_cache, tmp_path_factory):
    return run.train(settings(tiny_cache, tmp_path_factory.mktemp("runs"), name="inductive"))


def losses(path):
    return [{k: v for k, v in r.items() if k != "images_per_s"} for r in read_metrics(path)]


def test_the_student_of_half_the_schedule_is_kept(inductive, tiny_cache, tmp_path, monkeypatch):
    recorded = Recorder.on_train_batch_end

    def interrupting(self, trainer, module, *rest):
        recorded(self, trainer, module, *rest)
        if module.step == STEPS // 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Recorder, "on_train_batch_end", interrupting)
    with pytest.raises(run.Interrupted):
        run.train(settings(tiny_cache, tmp_path, name="inductive"))
    stopped = load_file(tmp_path / "inductive" / "checkpoint" / "student.safetensors")
    kept = load_file(inductive / HALFWAY)
    assert stopped.keys() == kept.keys()
    assert all(torch.equal(stopped[k], kept[k]) for k in kept)
    final = load_file(inductive / "checkpoint" / "student.safetensors")
    assert not all(torch.equal(final[k], kept[k]) for k in kept)


def test_it_takes_over_the_run_with_half_its_iterations(inductive, tiny_cache):
    config = load_config(defaults=inherited(inductive), self_train=inductive, accelerator="cpu")
    before = read_config(inductive)
    changed = {k for k in type(config).model_fields if getattr(config, k) != getattr(before, k)}
    assert changed == {"iterations", "name", "self_train", "warmup", "runs"}
    assert (config.total, config.run_name) == (STEPS // 2, "inductive-st")
    module = run.build_module(config, open_cache(tiny_cache))
    kept = load_file(inductive / HALFWAY)
    assert all(torch.equal(v, kept[k]) for k, v in module.student.state_dict().items())
    assert isinstance(module.method, SelfTraining)


def test_a_self_training_run_is_a_run(inductive, tiny_cache, tmp_path):
    defaults = inherited(inductive)
    config = load_config(defaults=defaults, self_train=inductive, runs=tmp_path, workers=0)
    path = run.train(config)
    assert open_run(path).config.self_train == inductive
    assert len(losses(path)) == STEPS // 2
    assert not (path / HALFWAY).exists()
    with pytest.raises(ConfigError, match=r"inductive-st is a self-training already"):
        inherited(path)


def test_what_it_cannot_start_from_is_one_sentence(inductive, tiny_cache, tmp_path):
    defaults = inherited(inductive)
    with pytest.raises(RunError, match=r"not a run folder"):
        inherited(tmp_path)
    half = inductive / HALFWAY
    content = half.read_bytes()
    half.unlink()
    try:
        with pytest.raises(RunError, match=r"no student of half its schedule"):
            run.train(settings(tiny_cache, tmp_path, defaults, self_train=inductive))
    finally:
        half.write_bytes(content)
    other = write_cache(tmp_path / "other.zarr", rows=3)
    info = inductive / "run.json"
    text = info.read_text()
    try:
        write_sealed(info, json.loads(json.dumps(read_sealed(info)).replace('"cow"', '"zebra"')))
        with pytest.raises(RunError, match=r"trained on other classes or another teacher"):
            run.train(settings(other, tmp_path, defaults, self_train=inductive))
    finally:
        info.write_text(text)
    assert not (tmp_path / "inductive-st").exists()


# The inductive setting: nothing of the unseen classes can be reached.


def reachable(*roots):
    """Bytes uint8 [n] of every tensor and array that can be reached from objects, whole storages."""
    stack, visited, found = list(roots), set(), []
    while stack:
        thing = stack.pop()
        if id(thing) in visited or isinstance(thing, (type, ModuleType, BuiltinFunctionType)):
            continue
        visited.add(id(thing))
        found.append(thing)  # keeps it alive, so that its id stays its own
        if isinstance(thing, torch.Tensor):
            stack.append(thing.grad)
        elif isinstance(thing, FunctionType):  # not its globals, which lead everywhere
            stack += [cell.cell_contents for cell in thing.__closure__ or ()]
            stack += [*(thing.__defaults__ or ()), *thing.__dict__.values()]
        elif isinstance(thing, np.ndarray):
            stack.append(thing.base)
        else:
            stack += gc.get_referents(thing)
    for thing in found:
        if isinstance(thing, torch.Tensor):
            yield torch.empty(0, dtype=torch.uint8).set_(thing.detach().untyped_storage()).numpy()
        elif isinstance(thing, np.ndarray) and thing.dtype != object:
            yield np.frombuffer(thing.tobytes(), np.uint8)


def holds(chunk, row):
    """Whether a vector lies in these bytes, in any floating type."""
    for kind in (np.float16, np.float32, np.float64):
        values = chunk[: chunk.size // kind().itemsize * kind().itemsize].view(kind)
        with np.errstate(invalid="ignore"):
            starts = np.flatnonzero(np.abs(values[: 1 - len(row)] - kind(row[0])) < 1e-3)
        for start in starts:
            if np.allclose(values[start : start + len(row)], row, atol=1e-3):
                return True
    return False


def maps(cache, path):
    """Label maps, or which of their pixels are ignored, of all usable images, as bytes."""
    blocks = [cache.read_block(b, [path]) for b in range(cache.blocks)]
    samples = [block.sample(i) for block in blocks for i in range(len(block))]
    return [s[path].tobytes() for s in samples]


def leaks(config, cache):
    """Unseen rows of the text matrix, maps of ignored pixels, and batches that tell unseen pixels from
    pixels of no class: how many can be reached from the module, its stream and its batches."""
    module, data = run.build_module(config, cache), C2SDataModule(config, cache)
    stream = data.stream(0, config.total)
    source = iter(stream)
    batches = list(source)
    module.training_step(batches[0], 0)["loss"].backward()
    rows = cached_text(cache, "unseen").embeddings
    again = iter(stream)
    batches.append(next(again))  # in the middle of its work, with the blocks it has read
    frame = again.gi_frame.f_locals
    chunks = list(reachable(module, data, stream, frame, batches))
    assert len(chunks) > 100
    seen = cached_text(cache, "seen").embeddings
    assert all(any(holds(chunk, row) for chunk in chunks) for row in seen)
    content = [chunk.tobytes() for chunk in chunks]
    assert any(m in c for m in maps(cache, "labels/data") for c in content)
    ignored = maps(cache, "labels/ignored")
    packed = [np.packbits(np.frombuffer(m, bool)).tobytes() for m in ignored]
    return (
        sum(any(holds(chunk, row) for chunk in chunks) for row in rows),
        sum(any(m in c or p in c for c in content) for m, p in zip(ignored, packed, strict=True)),
        sum(batch.unseen is not None for batch in batches),
    )


@pytest.mark.slow
def test_nothing_unseen_can_be_reached_in_inductive_training(inductive, tiny_cache, tmp_path):
    cache = open_cache(tiny_cache)
    config = settings(tiny_cache, tmp_path).resolved(tiny_manifest())
    assert leaks(config, cache) == (0, 0, 0)
    # The search does find them where they are known:
    known = config.model_copy(update={"self_train": inductive})
    text, ignored, batches = leaks(known, cache)
    assert text == len(UNSEEN)
    assert ignored > 0
    assert batches == STEPS + 1


@pytest.mark.slow
def test_other_unseen_embeddings_change_no_loss(inductive, tmp_path):
    other = write_cache(tmp_path / "tiny.zarr", unseen_text=5)
    path = run.train(settings(other, tmp_path / "runs", name="inductive"))
    assert losses(path) == losses(inductive)
    assert not np.array_equal(open_run(path).embeddings, open_run(inductive).embeddings)
    # They do where the names are known:
    defaults = inherited(inductive)
    records = []
    for number, cache in enumerate((read_config(inductive).cache, other)):
        config = settings(
            cache, tmp_path, defaults, self_train=inductive, iterations=1, name=f"st{number}"
        )
        records.append(losses(run.train(config)))
    assert records[0] != records[1]


@pytest.mark.slow
def test_which_pixels_are_ignored_changes_no_inductive_loss(inductive, tmp_path):
    other = write_cache(tmp_path / "tiny.zarr")
    writer = BlockWriter(other)
    for block in range(writer.manifest.blocks):
        arrays = open_cache(other).read(block, ["labels/data", "labels/ignored"])
        unlabelled = arrays["labels/data"] == 255
        writer.write(
            "labels", block, arrays | {"labels/ignored": unlabelled & ~arrays["labels/ignored"]}
        )
    path = run.train(settings(other, tmp_path / "runs", name="inductive"))
    assert losses(path) == losses(inductive)
    # They do where unseen pixels are labelled:
    defaults = inherited(inductive)
    records = []
    for number, cache in enumerate((read_config(inductive).cache, other)):
        config = settings(
            cache, tmp_path, defaults, self_train=inductive, iterations=1, name=f"st{number}"
        )
        records.append(losses(run.train(config)))
    assert records[0] != records[1]


@pytest.mark.slow
def test_other_unseen_names_and_labels_at_the_source_change_no_loss(
    tiny_teacher, scheduler, tmp_path
):
    from c2s_pipeline.build.builder import build

    own = make_coco_tree(tmp_path / "own", 6)
    other = make_coco_tree(tmp_path / "other", 6)
    traded = 0
    for file in other.rglob("*.png"):  # cow becomes grass, both unseen, and grass is not annotated
        values = np.asarray(Image.open(file))
        table = np.arange(256, dtype=np.uint8)
        table[[20, 123]] = 123, 255
        Image.fromarray(table[values]).save(file)
        traded += int((table[values] != values).sum())
    assert traded > 100
    names = [
        f"thing {i}" if i in DESCRIPTOR.unseen else n for i, n in enumerate(DESCRIPTOR.classes)
    ]
    renamed = replace(DESCRIPTOR, classes=tuple(names), prompts=tuple(names))
    request = made(teacher=tiny_teacher, view_size=32, block_rows=3, masks={"windows": (2, 3)})
    runs = []
    for number, (descriptor, root) in enumerate(((DESCRIPTOR, own), (renamed, other))):
        cache = tmp_path / f"{number}.zarr"
        source = FolderSplit(descriptor, root, "train")
        build(source, request, cache, scheduler=scheduler)
        config = settings(cache, tmp_path, name=f"run{number}", settings=["method.heads=4"])
        runs.append(run.train(config))
    assert losses(runs[0]) == losses(runs[1])
    changed = (open_run(runs[0]).embeddings != open_run(runs[1]).embeddings).any(1)
    assert tuple(np.flatnonzero(changed)) == DESCRIPTOR.unseen
