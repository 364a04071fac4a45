"""What a setting means, in a file and with --set."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from c2s.config import resolve, validated
from c2s.methods.grid import Grid
from c2s.methods.recipes import Recipe
from c2s.runs.config import TrainConfig, dump_yaml, load_config
from c2s_cache.augment import AugmentConfig
from c2s_cache.errors import ConfigError
from c2s_pipeline.build.request import request_model


def of_set(setting: str):
    key, _, _ = setting.partition("=")
    given = {} if key.strip() == "cache" else {"cache": "c.zarr"}
    return field(load_config(None, [setting], **given), key)


def of_file(setting: str, folder: Path):
    key, _, value = setting.partition("=")
    outer, _, inner = key.strip().partition(".")
    lines = f"{outer}: {value}" if not inner else f"{outer}:\n  {inner}: {value}"
    other = "" if outer == "cache" else "cache: c.zarr\n"
    (folder / "c.yaml").write_bytes(f"{other}{lines}\n".encode())
    return field(load_config(folder / "c.yaml"), key)


def field(config: object, key: str):
    for part in key.strip().split("."):
        config = getattr(config, part)
    return config


TAKEN = [
    ("lr=1e-4", 1e-4),
    ("lr=1E4", 1e4),
    ("lr=.001", 1e-3),
    ("lr=+5.", 5.0),
    ("lr= 2e-3 ", 2e-3),
    ("lr='1e-4'", 1e-4),
    ("iterations=1000", 1000),
    ("iterations=100.0", 100),
    ("iterations=null", None),
    ("seed=0", 0),
    ("seed=4294967295", 2**32 - 1),
    ("compile=true", True),
    ("compile=no", False),
    ("ema=~", None),
    ("method.tau=5e-2", 0.05),
    ("method.weights={focal: 100}", 100.0),
    ("loggers=[]", ()),
    ("loggers=[wandb]", ("wandb",)),
    ("validation=null", None),
    ("name=no", "no"),
    ("name=true", "true"),
    ("name=2024", "2024"),
    ("name=1e3", "1e3"),
    ("name=2024-01-02", "2024-01-02"),
    ("name=a#b", "a#b"),
    ("name='null'", "null"),
    ("weights=null", None),
    ("weights=none", "none"),
    ("cache=2024_01", "2024_01"),
    ("cache=012", "012"),
    ("cache=1.10", "1.10"),
    ("cache=yes", "yes"),
    ("cache=s3://bucket/x.zarr", "s3://bucket/x.zarr"),
    ("runs=123", Path("123")),
]


@pytest.mark.parametrize(("setting", "value"), TAKEN)
def test_a_value_is_the_same_in_a_file_and_set(setting, value, tmp_path):
    for got in (of_set(setting), of_file(setting, tmp_path)):
        got = got.focal if "weights={" in setting else got
        assert got == value
        assert type(got) is type(value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("name=#1", "#1"), ("name=a #b", "a #b"), ("name=a: b", "a: b"), (" lr =1", 1.0)],
)
def test_a_set_value_is_taken_as_written(setting, value):
    assert of_set(setting) == value


@pytest.mark.parametrize(
    "setting",
    [
        *("lr=1_0", "lr=0x10", "lr=1:30", "lr=inf", "lr=.inf", "lr=nan", "lr=1e999", "lr=yes"),
        *("iterations=010", "iterations=1_000", "iterations=1:30", "iterations=0o10"),
        *("iterations=true", "iterations=yes", "iterations=100.5", "iterations=5,000"),
        *("seed=007", "seed=-1", "seed=4294967296", "seed=99999999999999999999"),
        *(
            "compile=nein",
            "compile=2",
            "method.tau=inf",
            "view_cache_gib=.inf",
            "view_cache_gib=1e300",
            "devices=[0]",
        ),
        *("method.bank_size=1e12", "method.bank_size=1000000000000", "poly_power=.inf"),
        *("cache=null", "runs=''", "student=~", "method=null", "loggers=tensorboard", "Lr=1"),
        *("lr={a: 1}", "method.weights=[1, 1, 1]"),
    ],
)
def test_what_is_no_such_value_is_refused(setting, tmp_path):
    key = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}.*\(got |unknown key"):
        of_set(setting)
    with pytest.raises(ConfigError, match=rf"{key}.*\(got |unknown key"):
        of_file(setting, tmp_path)


@pytest.mark.parametrize("setting", ["=1", ".a=1", "a..b=1", "lr", ".".join("a" * 2000) + "=1"])
def test_a_setting_is_key_and_value(setting):
    with pytest.raises(ConfigError, match=r"--set .*expected key=value\.$") as caught:
        load_config(None, [setting], cache="c")
    assert len(str(caught.value)) < 200


def test_booleans_and_infinities_of_python_are_no_numbers_either():
    for wrong in ({"iterations": True}, {"lr": math.inf}, {"method": {"bank_size": False}}):
        with pytest.raises(ConfigError, match="a finite number"):
            load_config(cache="c", **wrong)
    with pytest.raises(ValidationError):
        TrainConfig(cache="c", view_cache_gib=math.inf)


def test_keys_and_items_are_numbers_too():
    class Table(BaseModel):
        model_config = ConfigDict(extra="forbid")
        rows: dict[int, tuple[float, ...]]

    assert validated(Table, {"rows": {"1": ["0.5", "2"]}}).rows == {1: (0.5, 2.0)}
    for rows in ({"01": []}, {"1": ["1_0"]}, {"1": [True]}, {"1": [], "1.0": []}):
        with pytest.raises(ConfigError, match="rows"):
            validated(Table, {"rows": rows})


@pytest.mark.slow
def test_long_values_and_many_wrong_keys_make_a_short_message():
    with pytest.raises(ConfigError) as caught:
        load_config(cache="c", lr="1" + "x" * 9_000_000)
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError, match=r"And 9,992 more\.$") as caught:
        load_config(cache="c", **{f"key{i}": i for i in range(10_000)})
    assert len(str(caught.value)) < 1000


NAMES = st.text(st.characters(exclude_characters="\0"), max_size=30)
FOLDERS = st.text(st.characters(exclude_characters="/\\\0"), min_size=1, max_size=30)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@pytest.mark.slow
@settings(max_examples=30)
@given(
    name=FOLDERS.filter(lambda name: name.strip() not in ("", ".", "..") and name.isprintable()),
    cache=NAMES,
    runs=NAMES,
    weights=st.none() | NAMES.filter(bool),
    lr=POSITIVE,
    warmup=st.none() | st.integers(0),
    ema=st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    compile=st.booleans(),
    ratio=st.tuples(POSITIVE, POSITIVE).map(sorted).map(tuple),
    loggers=st.lists(st.sampled_from(["tensorboard", "wandb"])).map(tuple),
)
def test_a_stored_configuration_is_read_back_equal(tmp_path_factory, ratio, **values):
    file = tmp_path_factory.getbasetemp() / "stored.yaml"
    config = TrainConfig(augment=AugmentConfig(ratio=ratio), **values)
    file.write_bytes(dump_yaml(config).encode())
    assert load_config(file) == config


def test_texts_reach_the_models_of_grids_recipes_and_builds():
    rows = [{"name": "010", "train": {"lr": "1e-4"}, "build": {"masks": {"windows": ["3"]}}}]
    grid = resolve(Grid, {}, None, (), {"name": "g", "rows": rows, "seeds": "2"})
    assert (grid.rows[0].name, grid.seeds) == ("010", 2)
    assert resolve(request_model(), {}, None, (), grid.rows[0].build).masks.windows == (3,)
    assert load_config(cache="c", **grid.rows[0].train).lr == 1e-4
    assert resolve(Recipe, {}, None, ["train.lr=1e-4"], {}).train == {"lr": "1e-4"}
    assert resolve(
        request_model(), {}, None, ["text.templates=['a {}', 'no {}']"], {}
    ).text.templates == (
        "a {}",
        "no {}",
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lrr=1", r"unknown key 'lrr'; nearest is 'lr'\."),
        ("method.headz=1", r"unknown key 'method\.headz'; nearest is 'heads'\."),
        (
            "augment.xyz=1",
            rf"unknown key 'augment\.xyz'; known: {', '.join(AugmentConfig.model_fields)}\.",
        ),
    ],
)
def test_an_unknown_key_is_told_with_those_that_are_known(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(settings=[setting], cache="x")


@pytest.mark.parametrize(
    "key",
    ["iterations", "lr", "name", "compile", "ema", "method", "method.tau", "loggers", "nosuch"],
)
@pytest.mark.parametrize("space", ["", " ", "\t\n"])
def test_a_setting_without_a_value_is_no_default(key, space):
    """As a shell makes of a variable that is not set."""
    with pytest.raises(ConfigError, match=f"{key}=.*no value follows.*Write {key}=null") as caught:
        load_config(cache="c.zarr", settings=[f"{key}={space}"])
    assert "\n" not in str(caught.value)
