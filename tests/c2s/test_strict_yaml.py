"""YAML as text: nothing is guessed, and nothing large is made."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from c2s.strict_yaml import parse_yaml, read_yaml
from c2s_cache.errors import ConfigError

PLAIN = (
    "no",
    "on",
    "True",
    "2024_01",
    "010",
    "0x10",
    "1:30",
    "1.10",
    "2024-01-02",
    "1e3",
    ".inf",
    "=",
)


@pytest.mark.parametrize("text", PLAIN)
def test_scalars_are_texts_as_written(text):
    assert parse_yaml(f"[{text}, '{text}', {{{text}: 1}}]", "x") == [text, text, {text: "1"}]


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL", "# nothing"])
def test_only_a_plain_null_is_none(text):
    assert parse_yaml(text, "x") is None
    assert parse_yaml(f"a: {text}", "x") == {"a": None}
    assert parse_yaml("['', 'null', \"~\"]", "x") == ["", "null", "~"]


VALUES = st.recursive(
    st.none() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_pyyaml_writes_is_read_back(value):
    assert parse_yaml(yaml.safe_dump(value, sort_keys=False), "x") == value


BASIC = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]))


@given(st.dictionaries(BASIC, st.none() | st.lists(BASIC), max_size=3))
def test_so_is_json(value):
    assert parse_yaml(json.dumps(value, indent=1), "x") == value


@given(st.text("[]{}:,-&*!|>'\"#%@ \n\tab01~?<"))
def test_any_text_is_read_or_refused_in_a_sentence(text):
    try:
        parse_yaml(text, "x")
    except ConfigError as error:
        refused = str(error)
    else:
        refused = "x"
    assert refused.startswith("x")
    assert "\n" not in refused


BOMB = "\n".join(
    ["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "x, line 2, column 11: the key 'c' is there twice."),
        ("a: 1\n'a': 2", "x, line 2, column 1: the key 'a' is there twice."),
        ("[" * 1500 + "]" * 1500, "x, line 1, column 33: lists or mappings are nested more"),
        ("a: " + "{a: " * 1500 + "}" * 1500, "x, line 1, column 128: lists or mappings are nested"),
        (BOMB, "x, line 6, column 25: it holds more than 100,000 values."),
        ("&a [*a]", "x, line 1, column 5: *a stands for nothing before it."),
        ("!!python/object/apply:os.getcwd []", "the tag tag:yaml.org,2002:python/object/apply:os"),
        ("!!float 1", "x, line 1, column 1: the tag tag:yaml.org,2002:float is not taken."),
        ("[a]: b", "x, line 1, column 1: a key is no text."),
        ("a\n---\nb", "x, line 2, column 1: a second document begins."),
        (
            "a: 1\n\tb: 2",
            "x is not valid YAML: found character '\\t' that cannot start any token (line 2",
        ),
        ("a: \x07", "x is not valid YAML: unacceptable character #x0007"),
    ],
)
def test_what_no_configuration_has_is_refused(text, sentence):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x")
    assert sentence in str(caught.value)


def test_anchors_share_what_they_name():
    assert parse_yaml("a: &x {b: 1}\nc: [*x, *x]", "x") == {"a": {"b": "1"}, "c": [{"b": "1"}] * 2}


def test_a_file_holds_a_mapping_or_nothing(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_bytes("\ufeffname: café\r\n".encode())
    assert read_yaml(file) == {"name": "café"}
    file.write_bytes(b"")
    assert read_yaml(file) == {}
    file.write_bytes(b"- a\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_yaml(file)
    file.write_bytes(b"a: " + b"1" * (1 << 20))
    with pytest.raises(ConfigError, match="has 1,048,579 bytes; expected 1,048,576 at most"):
        read_yaml(file)
