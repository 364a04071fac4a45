"""Every benchmark once on a tiny setting: keys and arithmetic, never speed."""

from __future__ import annotations

import json
import time
from functools import partial

import numpy as np
import pytest
from tiny_cache import write_cache

from c2s.bench.baselines import baselines, pack, unpack
from c2s.bench.measure import Rates, alternate, result
from c2s.methods.clip_to_seg.examples import PATHS
from c2s_cache import Cache, MissingExtra, open_cache
from c2s_cache.errors import DamagedError

leaves_files_open = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
"""WebDataset leaves closing its shards to the garbage collector."""

BASELINES = {"litdata", "mosaicml-streaming", "webdataset"}
KEYS = {"bench", "ours", "reference", "unit", "ratio", "rounds", "sides", "what"}


def check(facts, name, rounds):
    """What every comparison promises; returns the object as its reader sees it."""
    facts = json.loads(json.dumps(facts))
    assert facts.keys() >= KEYS
    assert (facts["bench"], facts["rounds"]) == (name, rounds)
    assert facts["ours"] > 0
    assert facts["reference"] > 0
    assert facts["ratio"] == pytest.approx(facts["ours"] / facts["reference"])
    for side, key in (("ours", "ours"), ("reference", "reference")):
        rates = facts["sides"][facts["what"][side]]
        assert len(rates) == rounds
        assert np.median(rates) == pytest.approx(facts[key], abs=1e-3)
    assert facts["what"]["versions"].keys() >= {"python", "torch"}
    assert facts["what"]["peak_memory_mib"] > 0
    return facts


def test_rounds_alternate_and_the_median_counts(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def side(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds[order.count(name) - 1]
            return 12

        return run

    sides = {"a": side("a", [9, 1, 2, 3]), "b": side("b", [9, 4, 4, 4])}
    rates = alternate(sides, rounds=3, warmup=1)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert rates == {"a": Rates((12.0, 6.0, 4.0)), "b": Rates((3.0, 3.0, 3.0))}
    facts = check(result("x", rates, "a", "b", "items/s", {"note": 1}, more=2), "x", 3)
    assert (facts["ours"], facts["reference"], facts["ratio"], facts["more"]) == (6, 3, 2, 2)


@leaves_files_open
def test_records_keep_every_field_and_every_library_gives_all_of_them_back(tmp_path):
    cache = open_cache(write_cache(tmp_path / "tiny.zarr"))
    blocks = [cache.read_block(b, PATHS) for b in range(cache.blocks)]
    samples = [block.sample(i) for block in blocks for i in range(len(block))]
    records = [pack(s) for s in samples]
    for sample, record in zip(samples, records, strict=True):
        again = unpack(record)
        assert (again.row, again.view) == (sample.row, sample.view)
        assert again.arrays.keys() == sample.arrays.keys()
        for path, values in again.arrays.items():
            np.testing.assert_array_equal(values, sample[path])
            assert values.dtype == sample[path].dtype
    readers, absent = baselines(lambda: records, tmp_path / "others")
    assert readers.keys() | absent.keys() == BASELINES
    for reader in readers.values():
        assert sorted(map(bytes, reader())) == sorted(records)


@pytest.mark.slow
@leaves_files_open
def test_loader(tmp_path):
    from c2s.bench.loader import bench_loader

    path = write_cache(tmp_path / "tiny.zarr")
    facts = check(bench_loader(path, images=8, batch_size=4, rounds=2), "loader", 2)
    assert facts["unit"] == "samples/s"
    assert facts["what"]["samples per round"] == 8
    assert facts["sides"].keys() | facts["what"]["absent"].keys() == {
        "c2s",
        "unchecked",
        *BASELINES,
    }
    rates = {k: np.median(v) for k, v in facts["sides"].items()}
    wanted = rates["c2s"] / rates["unchecked"]
    assert facts["checks_ratio"] == pytest.approx(wanted, rel=1e-2)


@leaves_files_open
def test_only_the_bench_reads_without_proof(tmp_path):
    from c2s.bench.loader import _believing

    path = write_cache(tmp_path / "tiny.zarr")
    files = sorted(f for f in (path / "global_cls/cls/c").rglob("*") if f.is_file())
    files[0].write_bytes(files[1].read_bytes())  # another block's
    read = lambda: len(Cache(path).read_block(0, PATHS))  # noqa: E731
    with pytest.raises(DamagedError, match="differs from its receipt"):
        read()
    assert _believing(read)() > 0
    with pytest.raises(DamagedError, match="differs from its receipt"):
        read()


def test_a_loader_is_compared_with_the_fastest_of_the_others(tmp_path, monkeypatch):
    from c2s.bench import loader

    medians = {"c2s": 30.0, "unchecked": 40.0, "a": 10.0, "b": 20.0, "c": 9.0}
    rates = {name: Rates((rate,)) for name, rate in medians.items()}
    monkeypatch.setattr(loader, "baselines", lambda *_: (dict.fromkeys("abc"), {}))
    monkeypatch.setattr(loader, "alternate", lambda *_, **__: rates)
    facts = loader.bench_loader(write_cache(tmp_path / "tiny.zarr"), images=4, batch_size=4)
    assert (facts["what"]["reference"], facts["ratio"]) == ("b", 1.5)
    assert facts["checks_ratio"] == 0.75


def test_loader_without_any_other_library_says_what_to_install(tmp_path, monkeypatch):
    from c2s.bench import loader

    monkeypatch.setattr(loader, "baselines", lambda records, folder: ({}, {"webdataset": "absent"}))
    with pytest.raises(MissingExtra, match=r"c2s\[bench\]"):
        loader.bench_loader(write_cache(tmp_path / "tiny.zarr"), images=4, batch_size=4)


@pytest.mark.slow
def test_train(tmp_path):
    from c2s.bench.train import bench_train

    path = write_cache(tmp_path / "tiny.zarr")
    options = {"student": "shapes-net", "steps": 2, "batch_size": 2, "workers": 0, "rounds": 2}
    options |= {"student_options": ["channels_last"], "image_size": 64}
    facts = check(bench_train(path, **options), "train", 2)
    rates = {k: np.median(v) for k, v in facts["sides"].items()}
    wanted = rates["streamed"] / rates["labels only"]
    assert facts["labels_only_ratio"] == pytest.approx(wanted, rel=1e-2)
    assert (facts["online_ratio"] is None) == ("online_reason" in facts)
    wanted = rates["channels_last"] / rates["memory"]
    assert facts["channels_last_ratio"] == pytest.approx(wanted, rel=1e-2)
    assert facts["what"]["view"] == "64 px"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("clip-rc", ["tower", "decoder", "losses", "optimizer"]),
        ("gkc", ["student", "matching", "losses", "optimizer"]),
    ],
)
def test_a_step_is_split(method, parts):
    """Whatever the parts take, together they are a step; nothing is asked of a teacher in the loop."""
    from c2s.bench.train import bench_train

    options = {"images": 8, "steps": 1, "batch_size": 2, "workers": 0, "rounds": 1}
    facts = check(bench_train(method=method, **options), "train", 1)
    assert list(facts["step_ms"]) == parts
    assert sum(facts["step_ms"].values()) > 0
    assert facts["online_ratio"] is None
    assert facts["online_reason"] == f"{method} asks the teacher nothing while it trains"
    assert set(facts["sides"]) == {"streamed", "memory", "labels only"}


@pytest.mark.slow
def test_train_with_the_teacher_in_the_loop():
    from c2s.bench.train import ONLINE_SHARE, bench_train

    facts = bench_train(images=16, steps=2 * ONLINE_SHARE, batch_size=2, workers=0, rounds=1)
    rates = {k: np.median(v) for k, v in facts["sides"].items()}
    assert facts["online_ratio"] == pytest.approx(rates["streamed"] / rates["online"], rel=1e-2)
    assert "online_reason" not in facts


def test_cluster():
    from c2s.bench.cluster import bench_cluster

    facts = check(bench_cluster(images=6, rounds=2), "cluster", 2)
    assert facts["what"]["ours"] == "torch"
    assert 0 < facts["what"]["images"] <= 6


@pytest.mark.slow
def test_codecs():
    from c2s.bench.codecs import CODECS, bench_codecs

    facts = json.loads(json.dumps(bench_codecs(images=4, rounds=1)))
    assert set(facts["codecs"]) == {"dense float16", "dense int8", "CLS float16"}
    for table in facts["codecs"].values():
        assert set(table) == set(CODECS)
        assert table["none"]["ratio"] == 1
        assert all(row["decode"] > 0 and row["encode"] > 0 for row in table.values())
    assert facts["dense_bytes_per_image"] == {
        "none": 0,
        "int8": 8 * 8 * 130,
        "float16": 8 * 8 * 256,
    }


@pytest.mark.slow
def test_build(scheduler, monkeypatch):
    from c2s.bench import build as bench
    from c2s_pipeline.build.dask_cluster import connect

    monkeypatch.setattr(bench, "connect", lambda _, *rest: connect(scheduler, *rest))
    monkeypatch.setattr(bench, "BATCHES", (4,))
    facts = check(partial(bench.bench_build, images=6, rounds=2)(), "build", 2)
    assert facts["what"]["images"] == 6
    assert facts["what"]["dense passes per image"] == 1
    assert facts["what"]["other passes per image"] > 1
    assert facts["memory_growth_mib"].keys() == {"workers", "builder"}
    used = facts["processor_ms_per_image"]
    assert facts["processor_ratio"] == pytest.approx(used["teacher"] / used["c2s"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "student", ["shapes-net", pytest.param("segformer-b0", marks=pytest.mark.slow)]
)
def test_infer(student):
    from c2s.bench.infer import bench_infer

    options = {"student": student, "classes": 5, "size": 64, "batch": 2, "rounds": 3}
    facts = check(bench_infer(**options), "infer", 3)
    rates = {k: np.median(v) for k, v in facts["sides"].items()}
    assert facts["unfolded_ratio"] == pytest.approx(rates["unfolded"] / rates["stock"], rel=1e-2)
    gflops, counts = facts["gflops"], facts["parameters"]
    assert gflops["folded"] == gflops["stock"] < gflops["unfolded"]
    norms = 1024 if student == "segformer-b0" else 0  # of the head's levels; transformers' has none
    assert counts["folded"] - norms == counts["stock"] < counts["unfolded"]
    assert (facts["what"]["classes"], facts["what"]["size"]) == (5, "64 px")
    library = "transformers" if student == "segformer-b0" else "c2s"
    assert facts["what"]["stock model of"] == library


def test_memory_growth_leaves_out_the_warm_up():
    from c2s.bench.processes import growth

    assert growth([0.0, 900.0, *[1000.0] * 14]) == 0
    assert growth([float(i) for i in range(16)]) == 8
    assert growth([5.0]) == 0
