"""Values of options that no command can use, and places where none can write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from c2s.cli.app import LONGEST
from c2s.deploy.fold import write_model
from c2s.evaluation.evaluate import compute_device
from c2s.evaluation.vocabulary import stored_embeddings
from c2s.runs.config import load_config
from c2s_cache.errors import ConfigError
from c2s_cache.ownership import NotOurs


@pytest.mark.parametrize("value", ["0", "-5", "7", "12", "70000", "1e3", ""])
@pytest.mark.parametrize("command", [("list",), ("show", "shapes-net")])
def test_widths_that_no_student_has(c2s, command, value):
    code, out, err = c2s("students", *command, "--dim", value)
    assert (code, out) == (2, "")
    assert "--dim" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("value", ["0", "-5", "70000"])
def test_sizes_that_no_image_has(c2s, value):
    code, out, err = c2s("students", "show", "shapes-net", "--size", value)
    assert (code, out) == (2, "")
    assert "--size" in err


@pytest.mark.parametrize(
    "name", ["", "meta", "gpu", "cuda:77", "cpu:x", "lazy", "xla", "fpga", "\ud800"]
)
def test_devices_that_compute_nothing(name):
    with pytest.raises(ConfigError, match=r"^Device .* cannot be used: ") as caught:
        compute_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.array(["a", "b"]), "an array of <U1"),
        (np.ones((2, 3), np.complex64), "an array of complex64"),
        (np.ones((2, 3), np.int64), "an array of int64"),
        (None, "several arrays"),
    ],
)
def test_a_vocabulary_of_no_embeddings(tmp_path, array, got):
    file = tmp_path / "v.npy"
    with file.open("wb") as out:
        np.savez(out, a=np.ones(3), b=np.ones(3)) if array is None else np.save(out, array)
    with pytest.raises(ConfigError, match=f"floating point, got {got}"):
        stored_embeddings(file, None, ["a", "b"], "x")


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x80\x04."])
def test_a_vocabulary_that_is_no_array(tmp_path, data):
    (tmp_path / "v.npy").write_bytes(data)
    with pytest.raises(ConfigError, match="cannot be read as an array"):
        stored_embeddings(tmp_path / "v.npy", None, ["a", "b"], "x")


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "photo.jpg", "--run", "none"),
        ("ablate", "--cache", "none", "--table", "IV"),
        ("fold", "--run", "none"),
        ("demo",),
        ("data", "convert", "file"),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("out", ["file", "file/below", "a" * 300, "/proc/x", "s3://bucket/x"])
def test_where_no_folder_can_be(c2s, command, out, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, _: str(path) != "/proc")  # root may do anything
    code, stdout, err = c2s(*command, "--out", out)
    assert (code, stdout) == (2, "")
    assert err.startswith("error: --out ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "--run", "none", "--dataset", "shapes", "--out", "s3://bucket/x.json"),
        ("masks", "score", "--dataset", "shapes", "--out", "s3://bucket/x.csv"),
        ("data", "show", "shapes", "--out", "s3://bucket/x.png"),
    ],
    ids=" ".join,
)
def test_no_url_becomes_a_folder_of_this_machine(c2s, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, stdout, err = c2s(*words)
    assert (code, stdout) == (2, "")
    assert "a local disk" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [{"runs": "s3://bucket/x"}, {"runs": Path("gs://bucket")}])
def test_no_url_becomes_a_folder_of_runs(given):
    with pytest.raises(ConfigError, match="runs: a folder on a local disk, not the URL of a store"):
        load_config(cache="c.zarr", **given)
    assert load_config(cache="s3://bucket/c.zarr", runs=Path("./s3-runs")).runs == Path("s3-runs")


def test_no_message_is_longer_than_a_page(c2s):
    code, _, err = c2s("data", "check", "x" * 100_000)
    assert code == 2
    assert LONGEST < len(err) < LONGEST + 100
    assert "more characters] x" in err
    assert err.endswith("or the path of your own folder with a classes.yaml.\n")


def test_names_that_a_locale_cannot_write_are_shown_all_the_same(tmp_path):
    script = "import sys; from c2s.cli import main; sys.argv = ['c2s', 'data', 'show', 'caf\\xe9']; main()"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: unknown data set 'caf\\xe9'")


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "--run", "LONG", "--dataset", "shapes"),
        ("fold", "--run", "LONG", "--out", "o"),
        ("train", "--resume", "LONG"),
        ("cache", "info", "LONG"),
        ("data", "check", "voc", "--root", "LONG"),
        ("data", "show", "voc", "--split-file", "LONG"),
    ],
)
def test_a_path_that_no_file_system_takes(c2s, command):
    code, _, err = c2s(*("x" * 5000 if a == "LONG" else a for a in command))
    assert code in (1, 2)
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_an_error_that_names_no_file_is_not_hidden(c2s, monkeypatch):
    def broken(*_):
        raise OSError("of our own")

    monkeypatch.setattr(sys.modules["c2s.cli.app"], "app", broken)
    with pytest.raises(OSError, match="of our own"):
        c2s("data", "list")


@pytest.mark.parametrize("option", ["--sample", "--seed", "--teacher", "--pretrained"])
def test_a_quick_check_takes_no_option_of_a_teacher(c2s, tiny_cache, option):
    code, out, err = c2s("cache", "verify", tiny_cache, "--quick", option, "9")
    assert (code, out) == (2, "")
    assert option in err


@pytest.mark.parametrize("value", ["-1", "1e9", "nan"])
def test_areas_that_no_mask_has(c2s, value):
    code, _, err = c2s("masks", "score", "--dataset", "shapes", "--min-area", value)
    assert (code, "--min-area" in err) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ("ablate", "--cache", "c", "--table", "IV", "--seeds"),
        ("demo", "--seeds"),
        ("cache", "build", "--dataset", "shapes", "--workers"),
        ("cache", "verify", "c", "--workers"),
        ("bench", "train", "--workers"),
    ],
    ids=" ".join,
)
def test_numbers_that_no_machine_has_room_for(c2s, words):
    """Of what there is one each: runs planned, processes started."""
    code, out, err = c2s(*words, 10**9)
    assert (code, out, words[-1] in err) == (2, "", True)


def test_a_folder_that_is_named_takes_no_root(c2s, tmp_path):
    (tmp_path / "mine").mkdir()
    for command in (("data", "check"), ("data", "show")):
        code, _, err = c2s(*command, "./mine", "--root", ".")
        assert (code, "Leave out --root" in err) == (2, True)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("batch_size=100000", "batch_size"),
        *((f"{name}=100000", name) for name in ("workers", "devices", "image_size")),
        ("iterations=99999999999", "iterations"),
        ("weights=", "weights"),
        ("lr_mult={method.: -1}", "lr_mult"),
        ("lr_mult={nosuch.: 2}", "no parameter's name begins with 'nosuch.'"),
    ],
)
def test_settings_that_no_training_can_follow(c2s, tiny_cache, setting, said):
    train = ("train", "--cache", tiny_cache, "--student", "shapes-net")
    text = setting.replace("weights=", "weights=''")
    code, _, err = c2s(*train, "--set", text)
    assert (code, said in err, "Traceback" in err) == (2, True, False), err


def test_names_of_runs_are_printable(c2s, tiny_cache):
    code, _, err = c2s("train", "--cache", tiny_cache, "--name", "a\nb")
    assert (code, "control characters" in err) == (2, True)


def test_the_root_is_no_place_for_a_model():
    with pytest.raises(NotOurs, match="is left as it is"):
        write_model(None, Path("/"))


def test_a_licence_is_a_name(c2s):
    code, _, err = c2s("fold", "--run", "r", "--out", "o", "--license", "a\nb: c")
    assert (code, "license" in err) == (2, True)


@pytest.mark.parametrize("empty", ["", " ", "\n"])
@pytest.mark.parametrize(
    "words",
    [
        ("train", "--runs"),
        ("cache", "derive", "c.zarr", "--dense-from"),
        ("cache", "verify", "c.zarr", "--teacher"),
        ("data", "check", "shapes", "--split"),
        ("predict", "--run", "r", "--out"),
    ],
    ids=" ".join,
)
def test_an_empty_value_is_no_folder_and_no_default(c2s, words, empty):
    """As a shell makes of a variable that is not set."""
    for given in ((*words, empty), (*words[:-1], f"{words[-1]}={empty}")):
        code, out, err = c2s(*given)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
        assert f"{words[-1]}" in err
        assert "the value is empty" in err
