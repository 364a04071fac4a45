"""Planning: precedence, one run for equal rows, caches that rows derive."""

from __future__ import annotations

from dataclasses import replace

import pytest

from c2s.ablation.plan import make_plan
from c2s.methods.grid import Grid
from c2s.methods.recipes import Recipe
from c2s.students.registry import CodeError
from c2s_cache import ConfigError


def test_equal_rows_are_one_run_and_seeds_come_last(grid, request_):
    plan = make_plan([grid, grid], request_)
    assert [[len(line.runs) for line in lines] for _, lines in plan.tables] == [[2, 2, 2]] * 2
    assert [run.seed for run in plan.runs] == [0, 0, 1, 1]
    (_, lines), _ = plan.tables
    assert lines[0].runs == lines[2].runs
    assert lines[0].runs[0].run_name != lines[1].runs[0].run_name
    label = plan.labels()[lines[1].runs[1].run_name]
    assert label == f"{grid.name} {lines[1].row.name}, {lines[1].student}, seed 1"
    assert not request_.out.exists()


def test_a_row_wins_over_options_those_over_set_and_that_over_recipe_and_grid(grid, request_):
    request = replace(
        request_,
        recipe=Recipe(
            train={
                "method": {
                    "latent_embedding": True,
                    "tau": 0.5,
                    "dropout": 0.2,
                    "alpha": 2.0,
                    "beta": 3.0,
                }
            }
        ),
        settings=(
            "method.latent_embedding=true",
            "method.tau=0.6",
            "iterations=5",
            "method.alpha=4",
        ),
        options={"iterations": 6, "batch_size": None},
    )
    grid = grid.model_copy(
        update={"train": {**grid.train, "method": {"heads": 2, "tau": 0.4, "dropout": 0.3}}}
    )
    plain = make_plan([grid], request).tables[0][1][1].runs[0]
    assert (plain.iterations, plain.batch_size) == (6, 2)
    method = plain.method
    assert (method.latent_embedding, method.tau, method.alpha, method.beta) == (
        False,
        0.6,
        4.0,
        3.0,
    )
    assert (method.heads, method.dropout) == (2, 0.3)


def test_what_a_run_does_not_learn_from_is_not_in_its_name(grid, request_):
    def names(**options):
        plan = make_plan([grid], replace(request_, options=options))
        return [run.run_name for run in plan.runs]

    assert names() == names(workers=3, log_every=7, view_cache_gib=0)
    moved = names(teacher="online", teacher_weights="elsewhere.pt")
    assert names(teacher="online") == moved
    assert names() == names(augment={"flip": 0.0}, validation={"every": 2})
    watched = names(validation={"every": 2, "patience": 3})
    assert watched == names(validation={"every": 2, "patience": 3, "root": "elsewhere"})
    for other in (watched, names(lr=1e-3)):
        assert not set(names()) & set(other)


def test_students_and_seeds_of_the_request_replace_the_grids(grid, request_):
    request = replace(request_, students=("segformer-b0", "shapes-net"), seeds=1)
    lines = make_plan([grid.model_copy(update={"train": {}})], request).tables[0][1]
    assert [line.student for line in lines] == ["segformer-b0", "shapes-net"] * 3
    assert len(lines[0].runs) == 1


def test_a_run_is_a_folder_whatever_its_student_is_called(grid, request_):
    request = replace(request_, students=("smp:unet/resnet34",))
    names = [r.run_name for r in make_plan([grid.model_copy(update={"train": {}})], request).runs]
    assert all(name.startswith("smp-unet-resnet34-") for name in names)


def test_a_wrong_setting_in_the_last_row_is_found_before_anything_runs(grid, request_):
    rows = [*grid.rows, grid.rows[0].model_copy(update={"name": "z", "train": {"tau": 1}})]
    with pytest.raises(ConfigError, match="unknown key 'tau'"):
        make_plan([grid.model_copy(update={"rows": tuple(rows)})], request_)


def test_a_row_brings_no_method_that_is_code_unless_it_was_asked_for(request_):
    own = "python:plain_methods:WholeConfig"
    row = {"name": "own", "train": {"method": {"name": own}}}
    grid = Grid.model_validate({"name": "g", "rows": [row]})
    with pytest.raises(CodeError, match=rf"The grid g has the method {own}"):
        make_plan([grid], request_)
    for request in (replace(request_, allow_code=True), replace(request_, method=own)):
        (run,) = make_plan([grid], request).runs
        assert run.method.name == own
        assert run.schedule == "cosine"
