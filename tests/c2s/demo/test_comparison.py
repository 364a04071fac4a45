"""All methods side by side, at a fraction of their length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from c2s.demo import run as demo
from c2s.demo.cache import build_cache, passes_an_image
from c2s.demo.comparison import compare, entrants, inference_costs, markdown
from c2s.methods.cost import student_cost
from c2s.methods.registry import METHODS
from c2s_cache import CacheError, open_cache
from c2s_cache.provenance import read_provenance

SHORT = ("iterations=2", "batch_size=4", "warmup=1")


def test_every_method_and_c2s_without_labels_take_part():
    found = entrants()
    assert {e.method for e in found} == set(METHODS)
    titles = ["clip-to-seg", "open", "clip-rc", "gkc", "zeroseg"]
    assert [e.title for e in found] == titles
    assert all(len(e.grid.rows) == 1 for e in found)


def test_markdown_has_a_column_a_method():
    lines = markdown(["a", "b"], [("x", ["1", "2"])]).splitlines()
    assert lines == ["| | a | b |", "|---|---|---|", "| x | 1 | 2 |"]


@pytest.mark.slow
def test_all_methods_train_from_one_cache_and_are_set_side_by_side(tmp_path, capsys):
    results = compare(1, tmp_path, images=12, limit=4, settings=SHORT)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert [(row["method"], row["name"]) for row in results["rows"]] == [
        ("clip-to-seg", "both"),
        ("clip-to-seg", "open"),
        ("clip-rc", "all, start=tower"),
        ("gkc", "both, latent regions"),
        ("zeroseg", "+ a head half as wide"),
    ]
    assert all(0 <= row["mIoU@shapes-renamed"] <= 100 for row in results["rows"])
    by_name = {(m["method"], m["name"]): m for m in results["methods"]}
    c2s, alone, rc, gkc, zero = by_name.values()
    assert rc["passes_an_image"] == 0
    assert zero["passes_an_image"] == 1 + 4 + 9 + 16
    (regions,) = open_cache(tmp_path / "shapes.zarr").column("regions/end")[-1]
    assert c2s["passes_an_image"] == round(1 + regions / 12, 2)
    assert {m["needs_clip"] for m in (c2s, alone, gkc, zero)} == {False}
    assert rc["needs_clip"]
    assert [m["needs_labels"] for m in by_name.values()] == [True, False, True, True, False]
    assert "labels" not in open_cache(tmp_path / "open.zarr").manifest.stage_names
    with Image.open(tmp_path / "methods.png") as picture:
        assert picture.width / picture.height > 8 / 7  # three pictures and five methods, six scenes
    text = (tmp_path / "methods.md").read_text()
    assert "| clip-to-seg | open | clip-rc | gkc | zeroseg |" in text
    assert "mIoU, other words" in capsys.readouterr().out

    def run_of(table, row):
        report = json.loads((tmp_path / f"{table}.json").read_text())
        return Path(report["grids"][0]["rows"][row]["runs"][0]["run"])

    run = run_of("all-clip-to-seg", 0)
    (cost,) = inference_costs({"x": run}).values()
    counted = student_cost("shapes-net", 128, 64)
    assert (cost["parameters"], round(cost["gmacs"], 2)) == (counted.parameters, counted.gflops)

    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    demo.run(1, tmp_path, images=12, limit=4, settings=SHORT)
    assert run_of("table-IV", 3) == run
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before | {
        file: file.stat().st_mtime_ns for file in (run / "scores").rglob("*")
    }


@pytest.mark.slow
def test_the_demos_cache_grows_by_stages_and_is_not_changed_otherwise(tmp_path):
    path = tmp_path / "shapes.zarr"
    build_cache(path, ["global_cls"], {}, 6)
    assert passes_an_image(path, ["global_cls", "text"]) == 1
    build_cache(path, ["cells"], {}, 6)
    cache = open_cache(path)
    assert {"global_cls", "cells"} <= set(cache.manifest.stage_names)
    assert passes_an_image(path, ["cells"]) == 29
    assert passes_an_image(path, ["cells", "global_cls"]) == 30
    build_cache(path, ["global_cls"], {}, 6)
    assert "cells" in open_cache(path).manifest.stage_names
    before = len(list(read_provenance(str(path))))
    for stages in (["global_cls"], ["masks"]):
        with pytest.raises(CacheError, match="batch_size"):
            build_cache(path, stages, {"batch_size": 5}, 6)
    assert "masks" not in open_cache(path).manifest.stage_names
    assert len(list(read_provenance(str(path)))) == before
