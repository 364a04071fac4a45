"""Invariant: one frozen configuration decides a run; the resolved form is stored with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from c2s.methods.clip_to_seg.config import ClipToSegConfig
from c2s_cache.errors import ConfigError

ITERATIONS = {"voc": 20_000, "context": 40_000, "context-bg": 40_000, "coco-stuff": 80_000}
"""The paper's schedules by dataset."""
DEFAULT_ITERATIONS = 20_000
STOCK_WARMUP = 1500


class TrainConfig(BaseModel):
    """Everything that determines a training run. The defaults are the stock SegFormer schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache: Path = Field(description="cache to train from")
    student: str = Field("segformer-b4", description="name of a student")
    weights: str | None = Field(None, description="pretrained weights of the student's backbone")
    method: ClipToSegConfig = ClipToSegConfig()

    iterations: int | None = Field(None, gt=0, description="default: 20 k / 40 k / 80 k by dataset")
    batch_size: int = Field(16, gt=0, description="over all devices together")
    image_size: int | None = Field(None, gt=0, description="default: the cache's view size")
    seed: int = Field(0, ge=0)
    jitter: bool = Field(True, description="photometric jitter")
    window: int = Field(8, gt=0, description="blocks held and shuffled together in memory")

    lr: float = Field(6e-5, gt=0, description="learning rate of the backbone")
    head_lr_mult: float = Field(10.0, gt=0, description="factor on lr for all that is not backbone")
    weight_decay: float = Field(0.01, ge=0)
    warmup: int | None = Field(
        None, ge=0, description="iterations; default 1500, at most a tenth of the run"
    )
    poly_power: float = Field(1.0, ge=0, description="power of the decay after warm-up; 0 = constant")

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    devices: int = Field(1, gt=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    workers: int = Field(4, ge=0, description="loader processes; never changes the batches")
    log_every: int = Field(50, gt=0, description="iterations")
    checkpoint_every: int = Field(1000, gt=0, description="iterations")

    name: str | None = Field(None, description="run folder under runs/; default student-cache-seedN")
    runs: Path = Field(Path("runs"), description="folder that holds the run folders")

    @property
    def run_name(self) -> str:
        """Name of the run folder."""
        return self.name or f"{self.student}-{self.cache.name.removesuffix('.zarr')}-seed{self.seed}"

    def resolved(self, dataset: str, view_size: int) -> TrainConfig:
        """The same with every default that depends on the cache filled in.

        Args:
            dataset: name of the cache's dataset.
            view_size: side of the cache's views in pixels.
        """
        iterations = self.iterations or ITERATIONS.get(dataset, DEFAULT_ITERATIONS)
        warmup = min(STOCK_WARMUP, iterations // 10) if self.warmup is None else self.warmup
        return self.model_copy(
            update={
                "iterations": iterations,
                "warmup": warmup,
                "image_size": self.image_size or view_size,
                "name": self.run_name,
            }
        )

    @property
    def total(self) -> int:
        """Iterations of a resolved configuration."""
        if self.iterations is None:
            raise ValueError("the configuration is not resolved")
        return self.iterations


def load_config(
    file: Path | None = None, settings: Sequence[str] = (), **options: Any
) -> TrainConfig:
    """Configuration from a YAML file, then named options, then `key=value` settings on top.

    Args:
        file: YAML mapping with the fields of `TrainConfig`.
        settings: texts like "method.tau=0.05"; dots reach into groups, values are read as YAML.
        **options: fields; those that are None are left as they are.

    Raises:
        ConfigError: unreadable file, unknown key, or a value that does not fit; names the key.
    """
    values: dict[str, Any] = {} if file is None else read_yaml(file)
    values |= {key: value for key, value in options.items() if value is not None}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting!r} is not of the form key=value.")
        _put(values, key.strip().split("."), _value(text, setting))
    return validated(values, str(file) if file else "the options")


def validated(values: dict[str, Any], source: str) -> TrainConfig:
    """A `TrainConfig` of a mapping.

    Raises:
        ConfigError: one sentence per wrong key.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        lines = [_sentence(dict(e)) for e in error.errors()]
        raise ConfigError(f"Configuration from {source}: {'; '.join(lines)}.") from error


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold a mapping of keys to values, got {type(values).__name__}.")
    return values


def dump_yaml(config: TrainConfig) -> str:
    """The configuration as YAML text that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _value(text: str, setting: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting!r}: the value is not YAML.") from error


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        child = values.get(key, {})
        child = child.model_dump() if isinstance(child, BaseModel) else child
        values[key] = dict(child) if isinstance(child, dict) else {}
        values = values[key]
    values[keys[-1]] = value


def _sentence(error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "the whole"
    if error["type"] == "extra_forbidden":
        return f"there is no key {key}"
    if error["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]} (got {error['input']!r})"
