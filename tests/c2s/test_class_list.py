"""Lists of classes as people write them: each is understood as what was meant, or refused in a sentence."""

from __future__ import annotations

import json

import pytest

from c2s.class_list import class_list, understood
from c2s_cache.errors import ConfigError

THREE = (("circle",), ("sand",), ("square",))


@pytest.mark.parametrize(
    "text",
    [
        "circle, sand, square",
        "circle\nsand\r\nsquare\n",
        "circle,\nsand,\nsquare,\n",
        "circle; sand; square",
        '["circle", "sand", "square"]',
        "['circle', 'sand', 'square']",
        '"circle", "sand" ,"square"',
        "- circle\n- sand\n- square\n",
        "('circle', 'sand', 'square')",
        "{0: circle, 1: sand, 2: square}",
        '{"sand": 1, "circle": 0, "square": 2}',
        "# shapes\ncircle\n  # texture\nsand\nsquare",
        "circle\uff0c sand\u3001\uff1bsquare",
    ],
)
def test_three_classes_however_they_are_written(text, tmp_path):
    assert class_list(text, "--classes") == THREE
    (tmp_path / "classes.txt").write_text(f"\ufeff{text}", encoding="utf-8")
    assert class_list(f"@{tmp_path / 'classes.txt'}", "--classes") == THREE


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("cat | kitten, sofa", (("cat", "kitten"), ("sofa",))),
        ('"bird, flying" | bird; "a ""b"" | c"', (("bird, flying", "bird"), ('a "b" | c',))),
        (["cat|kitten", " sofa "], (("cat", "kitten"), ("sofa",))),
        ([["cat", "kit | ten"], "sofa | couch"], (("cat", "kit | ten"), ("sofa", "couch"))),
        ("stop  \tsign, cafe\u0301", (("stop sign",), ("caf\u00e9",))),
        (
            "a {} b, {name}, 100%, lady's, 5\" pipe",
            (("a {} b",), ("{name}",), ("100%",), ("lady's",), ('5" pipe',)),
        ),
        ("[bold]x[/bold], [/red], \U0001f436", (("[bold]x[/bold]",), ("[/red]",), ("\U0001f436",))),
        ("\n".join(["3 stripes", "dots"]), (("3 stripes",), ("dots",))),
        ("2 wheels, 4 wheels", (("2 wheels",), ("4 wheels",))),
        ("(red) car, car (blue)", (("(red) car",), ("car (blue)",))),
        ("{a}, {b}", (("{a}",), ("{b}",))),
    ],
)
def test_names_of_classes(given, names):
    assert class_list(given, "here") == names
    assert class_list(json.loads(json.dumps(names)), "again") == names


@pytest.mark.parametrize(
    "content",
    [
        "classes: {0: cat, 7: sofa | couch}",
        "[cat, sofa | couch]",
        "classes:\n  12: sofa | couch  # rare\n  2: cat\n# unseen: [...]\n",
        "7: sofa | couch\n0: cat\n",
    ],
)
def test_files_in_yaml(content, tmp_path):
    file = tmp_path / "classes.yaml"
    file.write_text(content)
    assert class_list(f"@{file}", "--classes") == (("cat",), ("sofa", "couch"))


def test_a_table_is_no_list_of_names(tmp_path):
    file = tmp_path / "class_dict.csv"
    file.write_text("name,r,g,b\nroad,128,64,128\nsky,1,2,3\n")
    with pytest.raises(ConfigError, match="is a table of 4 columns"):
        class_list(f"@{file}", "--classes")
    file.write_text("road, sky\ngrass\n")
    assert class_list(f"@{file}", "--classes") == (("road",), ("sky",), ("grass",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "names no class"),
        ([], "names no class"),
        (" ,\n", "names no class"),
        (["a", None], "class 2 has no name"),
        ([[]], "class 1 has no name"),
        ("a, |", "class 2 has no name"),
        ("a, b, a", "distinct classes, and has 'a' twice"),
        ("a | b, b", "has 'b' twice"),
        ("stop  sign, stop sign", "has 'stop sign' twice"),
        ("caf\u00e9, cafe\u0301", "has 'caf\u00e9' twice"),
        ("cir\x07cle, sand", "control character"),
        ("'bird', sand", "quotation marks that are not"),
        ("\u201cbird\u201d, sand", "quotation marks that are not"),
        ('"bird, sand', "quotation marks stand round a whole name"),
        ('"bird" red, sand', "quotation marks stand round a whole name"),
        ("0: sand\n1: circle", "has a number before each name"),
        ("1. sand\n2. circle", "has a number before each name"),
        ("0: sand, 1: circle", "has a number before each name"),
        ("{sand: soft, circle: round}", "must be a list of names"),
        ("classes.txt", r"reads as the name of a file\. Write @classes\.txt"),
        ("@nowhere.txt", "list of classes nowhere.txt cannot be read"),
        ("[a, b: c", r"begins with \[, which nothing closes"),
        ("{0: a, 1: b", "begins with {, which nothing closes"),
        ("[a, 'b]", "not valid YAML"),
        (7, "must be a list of names"),
        ([f"c{i}" for i in range(32768)], "names 32,768 classes; at most 32,767"),
    ],
)
def test_what_is_no_list_is_one_sentence(given, message):
    assert class_list('"[a", c', "here") == (("[a",), ("c",))  # names that begin so are possible
    with pytest.raises(ConfigError, match=message) as caught:
        class_list(given, "here")
    assert "\n" not in str(caught.value)


def test_what_was_understood_can_be_read():
    assert understood(["cat | kitten", "bird, flying"]) == "2 classes: cat | kitten; bird, flying"
    assert understood(f"c{i}" for i in range(2000)).endswith("c11 and 1,988 more")
    assert "fills every image" in understood(["cat"])
