"""The paper's tables: every number is the paper's, every row a valid configuration."""

from __future__ import annotations

import re

import pytest

from c2s.methods.clip_to_seg import ClipToSegConfig
from c2s.methods.clip_to_seg.tables import FULL, TABLES
from c2s.methods.recipes import load_recipe
from c2s.methods.zeroseg import ZeroSegConfig
from c2s.methods.zeroseg.tables import TABLES as ZEROSEG

SHARED_PAPER = "papers/c2s.txt"


@pytest.fixture(scope="module")
def printed(shared_data):
    """Rows of numbers by table, as the paper's text has them."""
    paper = shared_data.parent / SHARED_PAPER
    if not paper.is_file():
        pytest.skip("the paper's text is not beside this checkout")
    tables = {}
    for part in re.split(r"^TABLE (?=[IVX]+:)", paper.read_text(), flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition(":")
        lines = rest.split("\n\n")[1].splitlines() if "\n\n" in rest else []
        rows = [re.findall(r"(?<=\t)\d+\.\d(?=\t|$)", line) for line in lines]
        tables[name] = [tuple(float(v) for v in row) for row in rows if len(row) == 3]
    return tables


@pytest.mark.parametrize("name", TABLES)
def test_the_numbers_are_those_of_the_paper(name, printed):
    assert [row.paper for row in TABLES[name].rows] == printed[name]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_configuration_of_its_own(name):
    configs = []
    for row in TABLES[name].rows:
        assert set(row.train) <= {"method"}
        configs.append((ClipToSegConfig(**row.train.get("method", {})), str(row.build)))
    assert len({str(c) for c in configs}) == len(configs)


def test_the_full_method_is_one_setting_in_all_tables_without_a_number_of_their_own():
    full = {
        name: [row for row in grid.rows if row.paper == FULL and not row.build]
        for name, grid in TABLES.items()
    }
    for name in ("IV", "V", "VI", "VII", "VIII", "XI"):
        assert [row.train for row in full[name]] == [{}]
    assert [row.train for row in full["IX"]] == [{"method": {"bank_size": 6}}]


@pytest.mark.parametrize("name", ZEROSEG)
def test_every_row_of_zeroseg_is_a_configuration_of_its_own(name):
    grid = ZEROSEG[name]
    configs = [str(ZeroSegConfig(**row.train["method"])) for row in grid.rows]
    assert len(set(configs)) == len(configs)
    assert grid.shown(()) == ("hIoU", "sIoU", "uIoU", "mIoU")


def test_rows_of_zeroseg_begin_as_printed_and_end_with_the_recipe_and_a_narrower_head():
    first, *_, last, narrower = ZEROSEG["shapes"].rows
    for row, recipe in ((first, "paper"), (last, "best")):
        want = ZeroSegConfig(**load_recipe(recipe, "zeroseg").train["method"])
        assert ZeroSegConfig(**row.train["method"]) == want
    head = want.grouping.model_copy(update={"width": 64})
    assert ZeroSegConfig(**narrower.train["method"]) == want.model_copy(update={"grouping": head})
