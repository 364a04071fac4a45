"""Drafts of synonyms from WordNet's files: what is found, what is struck, and what a build takes of it."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from c2s.cli import app
from c2s.datasets import load_dataset
from c2s.datasets.wordnet import WordNet, draft_synonyms
from c2s_cache.errors import ConfigError, DataError
from c2s_pipeline.stages.words import require_own

LICENCE = "  1 This software and database is being provided to you, the LICENSEE\n"
SENSES = {
    "ring": [(("ring", "halo"), "a round thing"), (("call", "ring"), "a telephone call")],
    "star": [(("star",), "a hot ball of gas"), (("star", "champion", "ace"), "someone able")],
    "traffic_light": [(("traffic_light", "stoplight"), "a visual signal")],
    "bus": [(("bus", "coach"), "a vehicle")],
    "church": [(("church", "church_building"), "a place of worship")],
    "man": [(("man", "adult_male"), "a grown person")],
    "no": [(("no", "nay"), "a negative")],
    "bank": [(("bank", "halo"), "sloping land; especially beside water")],
}


@pytest.fixture
def folder(tmp_path):
    """A few nouns, with offsets in bytes, counts in hexadecimal and pointers, as wndb(5) has them."""
    data, index = LICENCE, LICENCE
    for lemma, senses in SENSES.items():
        offsets = []
        for words, gloss in senses:
            offsets.append(f"{len(data):08d}")
            listed = " ".join(f"{word} 0" for word in words)
            data += f'{offsets[-1]} 06 n {len(words):02x} {listed} 001 @ 00000001 n 0000 | {gloss}; "as {lemma}"  \n'
        index += f"{lemma} n {len(senses)} 2 @ ~ {len(senses)} 1 {' '.join(offsets)}  \n"
    (tmp_path / "index.noun").write_text(index)
    (tmp_path / "data.noun").write_text(data)
    return tmp_path


def test_meanings_come_in_order_with_their_definitions(folder):
    wordnet = WordNet(folder)
    found = wordnet.senses("Ring")
    assert [s.words for s in found] == [("ring", "halo"), ("call", "ring")]
    assert [s.gloss for s in found] == ["a round thing", "a telephone call"]
    assert wordnet.senses("bank")[0].gloss == "sloping land; especially beside water"
    assert wordnet.senses("traffic light")[0].words == ("traffic light", "stoplight")
    assert wordnet.senses("xyz") == []


@pytest.mark.parametrize(
    ("plural", "word"),
    [("rings", "halo"), ("buses", "coach"), ("churches", "church building"), ("men", "adult male")],
)
def test_a_plural_is_looked_up_by_its_singular(folder, plural, word):
    assert word in WordNet(folder).senses(plural)[0].words


def test_a_synset_of_sixteen_words_is_read_whole(tmp_path):
    words = [f"w{chr(97 + i)}" for i in range(17)]
    listed = " ".join(f"{w} 0" for w in words)
    (tmp_path / "data.noun").write_text(f"00000000 06 n 11 {listed} 000 | many  \n")
    (tmp_path / "index.noun").write_text("wa n 1 0 1 0 00000000  \n")
    assert WordNet(tmp_path).senses("wa")[0].words == tuple(words)


def test_a_draft_is_what_a_build_takes(folder):
    classes = ["ring", "star", "bank", "no", "sky-other", "champion"]
    text = draft_synonyms(
        WordNet(folder), classes, ["ring", "star", "bank", "no", "sky", "champion"]
    )
    words = yaml.safe_load(text)["words"]["synonyms"]
    assert words == {
        "ring": ["call"],  # halo is of bank, too
        "star": ["ace"],  # champion is a class
        "bank": [],
        "no": ["nay"],
        "sky-other": [],
        "champion": [],
    }
    require_own(classes, [words[name] for name in classes])
    assert "# - halo  (of another class, too)" in text
    assert "# someone able\n      # - champion" in text
    assert "sky-other: []  # not a noun of WordNet" in text


def test_the_command_prints_or_writes_and_replaces_nothing(folder, tmp_path):
    words = ["data", "synonyms", "shapes", "--wordnet", str(folder)]
    printed = CliRunner().invoke(app, words).stdout
    assert list(yaml.safe_load(printed)["words"]["synonyms"]) == list(
        load_dataset("shapes").classes
    )
    out = tmp_path / "draft.yaml"
    assert CliRunner().invoke(app, [*words, "--out", str(out)]).exit_code == 0
    assert out.read_text() == printed
    again = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert isinstance(again.exception, ConfigError)
    assert "is there already" in str(again.exception)
    without = CliRunner().invoke(app, ["data", "synonyms", "shapes"])
    assert isinstance(without.exception, ConfigError)
    assert "--wordnet is missing" in without.exception.what
    assert "index.noun and data.noun" in without.exception.hint


def test_folders_without_wordnet_and_damaged_files_are_said(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere holds no WordNet nouns.*"):
        WordNet(tmp_path / "nowhere")
    data = folder / "data.noun"
    data.write_bytes(data.read_bytes()[3:])
    with pytest.raises(DataError, match="damaged, or of another version"):
        WordNet(folder).senses("ring")
    (folder / "index.noun").write_text("ring n many\n")
    with pytest.raises(DataError, match="is no index of WordNet"):
        WordNet(folder)
