"""Invariant: one frozen configuration decides a run; the resolved form is stored with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from c2s.config import gathered, in_store, merge, resolve
from c2s.methods.base import MethodConfig
from c2s.methods.registry import method_class, method_config, named
from c2s.strict_yaml import read_yaml
from c2s.students.registry import require_no_code
from c2s_cache.augment import AugmentConfig
from c2s_cache.manifest import Manifest

DEFAULT_ITERATIONS = 20_000
STOCK_WARMUP = 1500
FEW = 20
"""Iterations of a run that is more than a trial of the command."""


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _absolute(address: str) -> str:
    """A path, or `local-dir:` and one, that holds in any directory; anything else as it is."""
    kind, colon, path = address.rpartition("local-dir:")
    return f"{kind}{colon}{Path(path).absolute()}" if Path(path).exists() else address


class ValidationConfig(BaseModel):
    """Scoring during training, on labelled images of the run's data set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    every: int = Field(gt=0, description="iterations")
    split: str = "val"
    limit: int | None = Field(default=None, gt=0, description="only the first K images")
    root: Path | None = Field(default=None, description="folder of the data set")
    mode: Literal["slide", "whole"] = "slide"
    patience: int | None = Field(
        default=None,
        gt=0,
        description="stop after so many scores in a row without a better mIoU of the seen classes "
        "among themselves; nothing of an unseen class has a part in it",
    )

    def resolved(self) -> ValidationConfig:
        """The same with a path that holds anywhere."""
        return self.model_copy(update={"root": self.root and self.root.absolute()})


class TrainConfig(BaseModel):
    """Everything that determines a training run. The defaults are the stock SegFormer schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cache: Annotated[str, BeforeValidator(_text)] = Field(
        description="cache to train from: directory or URL"
    )
    parts: int | None = Field(
        default=None,
        gt=0,
        description="the first so many parts of a cache that grew, as it was before the others; default: all",
    )
    student: str = Field(default="segformer-b4", description="name of a student")
    weights: str | None = Field(
        default=None, min_length=1, description="pretrained weights of the student's backbone"
    )
    method: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(method_config)] = Field(
        default_factory=lambda: method_config({}),
        description="method.name: whose objective; the other keys are that method's",
    )
    teacher: Literal["cache", "online"] = Field(
        default="cache",
        description="what the teacher says comes from the cache, or from CLIP in the training loop",
    )
    views: Literal["cached", "fresh"] = Field(
        default="cached",
        description="replay the cache's views, or draw new ones for ever (needs teacher=online, or a method that "
        "asks nothing of a view)",
    )
    augment: AugmentConfig = AugmentConfig()
    teacher_weights: str | None = Field(
        default=None,
        description="of an online teacher: checkpoint file or local-dir:FOLDER, where the cache's own "
        "weights cannot be found by name",
    )
    self_train: Path | None = Field(
        default=None,
        description="inductive run to continue transductively, from half its schedule, with the names "
        "of the unseen classes known",
    )

    iterations: int | None = Field(
        default=None, gt=0, le=10**9, description="default: the method's for the dataset, else 20 k"
    )
    epochs: float | None = Field(
        default=None, gt=0, description="in place of iterations: passes over the cache's images"
    )
    batch_size: int = Field(
        default=16,
        gt=0,
        le=1 << 16,
        description="of an iteration, over all devices and micro-batches together",
    )
    accumulate: int = Field(
        default=1, gt=0, description="micro-batches in which an iteration is computed"
    )
    image_size: int | None = Field(
        default=None, gt=0, le=1 << 16, description="default: the cache's view size"
    )
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    jitter: bool = Field(default=True, description="photometric distortion")
    shuffle_blocks: int = Field(
        default=8, gt=0, description="blocks held and shuffled together in memory"
    )
    view_cache_gib: float = Field(
        default=1.0,
        ge=0,
        le=1 << 20,
        description="GiB of memory per machine for finished views; where all of a cache fit, each is decoded once",
    )

    lr: float = Field(default=6e-5, gt=0, description="learning rate of the backbone")
    head_lr_mult: float = Field(
        default=10.0, gt=0, description="factor on lr for all that is not backbone"
    )
    lr_mult: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="factor on lr of parameters whose name begins with a key (such as method. or "
        "student.decode_head.), in place of the two above; the longest key counts",
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="of all but norms, biases, layer scales and positions"
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="of AdamW"
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of all gradients together"
    )
    schedule: Literal["poly", "step", "cosine"] = Field(
        default="poly", description="how the rate falls over the run, beside its warm-up"
    )
    warmup: int | None = Field(
        default=None, ge=0, description="iterations; default 1500, at most a tenth of the run"
    )
    poly_power: float = Field(
        default=1.0, ge=0, description="schedule=poly: power of the decay; 0 = constant"
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.9, 0.95),
        description="schedule=step: parts of the run after which the rate falls",
    )
    step_factor: float = Field(
        default=0.1, gt=0, le=1, description="schedule=step: to which part of itself it falls"
    )
    final_lr: float = Field(
        default=0.0, ge=0, le=1, description="of poly and cosine: part of the rate at the end"
    )

    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of a moving average of the student's weights, which is then the run's student",
    )

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    compile: bool = Field(default=False, description="torch.compile the student")
    channels_last: bool = Field(default=False, description="memory layout of the student")
    deterministic: bool = Field(
        default=False,
        description="on a GPU: algorithms that repeat to the bit, where there are such, slower",
    )
    devices: int = Field(default=1, gt=0, le=1024, description="per node")
    nodes: int = Field(default=1, gt=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    workers: int = Field(
        default=4, ge=0, le=1024, description="loader processes; never changes the batches"
    )
    log_every: int = Field(default=50, gt=0, description="iterations")
    checkpoint_every: int = Field(default=1000, gt=0, description="iterations")
    validation: ValidationConfig | None = None
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        default=("tensorboard",), description="beside metrics.jsonl and metrics.csv"
    )

    proposed: tuple[str, ...] = Field(
        default=(),
        description="what was chosen for the machine and the data, and why; written down",
    )
    name: str | None = Field(
        default=None, description="run folder under runs/; default student-cache-seedN"
    )
    runs: Path = Field(default=Path("runs"), description="folder that holds the run folders")

    @field_validator("name")
    @classmethod
    def _of_one_folder(cls, name: str | None) -> str | None:
        if name is not None and (name.strip() in ("", ".", "..") or set(name) & set("/\\")):
            raise ValueError("the name of a folder, not a path to one")
        if name is not None and not name.isprintable():
            raise ValueError("a name without line breaks, tabs and other control characters")
        return name

    @field_validator("runs")
    @classmethod
    def _of_this_machine(cls, runs: Path) -> Path:
        if in_store(runs):
            raise ValueError("a folder on a local disk, not the URL of a store")
        return runs

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.views == "fresh" and self.teacher != "online" and not self.method.any_view:
            raise ValueError(
                "views=fresh needs teacher=online, or a method that asks nothing of a view: a cache holds no fresh "
                "views; set views=cached"
            )
        if self.teacher_weights is not None and self.teacher != "online":
            raise ValueError(
                "teacher_weights has no effect without teacher=online: nothing else loads the teacher"
            )
        parts = self.nodes * self.devices * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of nodes x devices x accumulate = {parts}"
            )
        if self.batch_size % (together := parts * self.method.clip_frames):
            raise ValueError(
                f"batch_size {self.batch_size} counts frames, and is no multiple of nodes x devices x accumulate x "
                f"method.frames = {together}"
            )
        return self

    @property
    def run_name(self) -> str:
        """Name of the run folder."""
        student = re.sub(r"[^\w.-]+", "-", self.student)  # smp:unet/resnet34 is no name of a folder
        cache = PurePath(self.cache).name.removesuffix(".zarr")
        return self.name or f"{student}-{cache}-seed{self.seed}"

    def resolved(self, manifest: Manifest) -> TrainConfig:
        """The same with every default that depends on the cache filled in, and paths that hold anywhere.

        Args:
            manifest: of the cache.
        """
        suited = self.method.by_dataset.get(manifest.dataset, {})
        iterations = self.iterations or suited.get("iterations", DEFAULT_ITERATIONS)
        if self.iterations is None and self.epochs is not None:
            iterations = math.ceil(self.epochs * manifest.rows / self.batch_size)
        warmup = min(STOCK_WARMUP, iterations // 10) if self.warmup is None else self.warmup
        return self.model_copy(
            update={
                "parts": len(manifest.parts),
                "iterations": iterations,
                "epochs": None,
                "warmup": warmup,
                "image_size": self.image_size or manifest.view_size,
                "name": self.run_name,
                "cache": _absolute(self.cache),
                "teacher_weights": self.teacher_weights and _absolute(self.teacher_weights),
                "self_train": self.self_train and self.self_train.absolute(),
                "validation": self.validation and self.validation.resolved(),
            }
        )

    def doubts(self, manifest: Manifest) -> list[str]:
        """What can be run on a cache and is hardly meant, as sentences: a batch with images twice, or a warm-up that
        outlasts the run, unless that is a mere trial.

        Args:
            manifest: of the cache.
        """
        found = self.resolved(manifest)
        said = []
        if found.batch_size > manifest.rows * manifest.views:
            said.append(
                f"a batch of {found.batch_size:,} is more than the {manifest.rows:,} images of the cache: it "
                "has each of them more than once."
            )
        if found.warmup and found.warmup >= found.total >= FEW:
            said.append(
                f"the warm-up of {found.warmup:,} iterations outlasts the run of {found.total:,}: its learning rate "
                f"does not get to {found.lr:g}."
            )
        return said

    @property
    def total(self) -> int:
        """Iterations of a resolved configuration."""
        if self.iterations is None:
            raise ValueError("the configuration is not resolved")
        return self.iterations


def load_config(
    file: Path | None = None,
    settings: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    allow_code: bool = False,
    **options: Any,
) -> TrainConfig:
    """Configuration from the method's defaults, a YAML file, `key=value` settings, then named fields.

    Args:
        file: YAML mapping with the fields of `TrainConfig`.
        settings: texts like "method.tau=0.05"; dots reach into groups, values are taken as written.
        defaults: nested values that replace the model's own and the method's.
        allow_code: the file may name a method that is code of one's own.
        **options: fields; those that are None are left as they are.

    Raises:
        ConfigError: one sentence for every wrong key or value, or there is no such method.
        CodeError: the file names code, not allowed.
    """
    if file is not None:
        require_own_method(file, allow_code)
    values = gathered(defaults or {}, file, settings, options)
    method = method_class(named(values.get("method")))
    suited = {"student": method.student, **method.defaults}
    return resolve(TrainConfig, merge(suited, values), None, (), {})


def require_own_method(file: Path, allow_code: bool) -> None:
    """Refuse a file of settings whose method is code to import.

    Raises:
        CodeError: it is, and is not allowed.
        ConfigError: the file cannot be read.
    """
    require_no_code(named(read_yaml(file).get("method")), file, allow_code, "method")


def dump_yaml(config: TrainConfig) -> str:
    """The configuration as YAML text that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
