"""Invariant: folding changes the last layer alone, so the model is the stock one with a K-class head.

A `FeatureStudent`'s last layer gives features F = W x + b, and class k scores a_k . F = (a_k W) x + a_k b: the
embeddings A [K, D] fold into W' = A W, b' = A b. That is the cosine times the norm of F, so at every
position of the feature map the best class is the same. Any other student stays as it is, with A beside it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from c2s import __version__
from c2s.datasets.shapes import usual_protocol
from c2s.deploy.info import ModelError, ModelInfo, Scores
from c2s.deploy.model import SegmentationModel
from c2s.evaluation.classifier import Classifier
from c2s.plain_torch import plain_torch
from c2s.runs.run import Run
from c2s.students.base import FeatureStudent
from c2s.vocabulary import Vocabulary
from c2s_cache.lock import locked
from c2s_cache.ownership import Mark, NotOurs, contents
from c2s_cache.receipt import sync_directory
from c2s_cache.text_file import read_text

FOLDED = Mark("a folded model", "config.json", ("student", "classes", "crop", "teacher"))

TEACHER = ("name", "pretrained", "digest", "activation")
"""What a folded model says of the CLIP model whose words it knows."""


def fold_classifier(
    state: Mapping[str, Tensor], classifier: str, embeddings: Tensor
) -> dict[str, Tensor]:
    """A student's weights with class embeddings folded into its last layer.

    Args:
        state: of a student of width D.
        classifier: dotted name of its last layer, a linear layer or a convolution of any kernel, with
            weight [D, ...] and, if it has one, bias [D].
        embeddings: A, float [K, D].

    Returns:
        The same tensors, but for the layer's weight A W [K, ...] and bias A b [K].
    """
    rows = embeddings.double()
    names = [name for name in (f"{classifier}.weight", f"{classifier}.bias") if name in state]
    folded = {
        name: torch.einsum("kd,d...->k...", rows, state[name].double()).to(state[name].dtype)
        for name in names
    }
    return {**state, **folded}


@plain_torch()
def fold_run(
    run: Run, words: Vocabulary | None = None, license: str | None = None
) -> SegmentationModel:
    """A trained run as a segmentation model of K classes.

    Args:
        run: opened run.
        words: the classes, several names of one averaged; default: the run's own.
        license: identifier of the hub; default: apache-2.0, the licence of c2s and of what it ships, or
            "other" if the training started from other weights.

    Raises:
        ModelError: a result of `c2s eval` in the run folder is damaged.
    """
    words = words or run.vocabulary
    names, words = words.names, words.averaged()
    student, info, config = run.student, run.info, run.config
    weights = None if config.weights == "random" else config.weights
    test = config.method.protocol(usual_protocol(info.dataset), config.image_size or info.view_size)
    facts = ModelInfo(
        kind="folded" if isinstance(student, FeatureStudent) else "asked",
        student=config.student,
        architecture=info.architecture,
        dim=words.embeddings.shape[1],
        classes=words.classes,
        names=names,
        unseen=words.unseen,
        crop=test.view_size,
        mean=student.mean,
        std=student.std,
        dataset=info.dataset,
        iterations=run.step,
        transductive=config.self_train is not None,
        backbone=weights,
        teacher=info.teacher.model_dump(mode="json", include=set(TEACHER)),
        license=license or ("other" if weights else "apache-2.0"),
        versions={"c2s": __version__, **info.versions},
        scores=run_scores(run.path, words.classes),
    )
    model = SegmentationModel(facts)
    embeddings = torch.from_numpy(words.embeddings)
    if isinstance(student, FeatureStudent):
        state = fold_classifier(student.state_dict(), student.classifier, embeddings)
    else:
        state = Classifier(student, embeddings).state_dict()
    model.student.load_state_dict(state)
    return model.eval()


def run_scores(path: Path, classes: tuple[str, ...]) -> tuple[Scores, ...]:
    """Results on these classes that `c2s eval --out RUN/eval*.json` left in a run folder.

    Raises:
        ModelError: such a file holds no result.
    """
    found = []
    for file in sorted(path.glob("eval*.json")):
        try:
            facts = json.loads(read_text(file, error=ModelError))
            names = tuple(c["name"] for c in facts["classes"])
            scores = Scores.model_validate(facts)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(
                f"{file} is no result of c2s eval.", "Write it again with --out, or remove it."
            ) from error
        if names == classes:
            found.append(scores)
    return tuple(found)


def write_model(
    model: SegmentationModel, out: Path, overwrite: bool = False, export: bool = False
) -> None:
    """Write weights, `config.json`, the model card and, if asked for, the exported program.

    The folder appears under its name only when it is whole.

    Args:
        model: in evaluation mode.
        out: the folder.
        overwrite: replace a folded model that is there.
        export: also write `model.pt2`.

    Raises:
        ModelError: something else is there, it cannot be written, or the export failed.
    """
    out = out.resolve()
    if not out.name:
        raise NotOurs(f"{out} is no folded model, and is left as it is.", "Choose another --out.")
    busy = ModelError(f"Another process is writing {out}.", "Wait for it, or choose another --out.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.with_name(f".{out.name}.lock"), busy, required=False):
            _replace(model, out, overwrite, export)
    except OSError as error:
        raise ModelError(f"{out} cannot be written ({error.strerror or error}).") from error


def _replace(model: SegmentationModel, out: Path, overwrite: bool, export: bool) -> None:
    new, old = (out.with_name(f".{out.name}.{age}") for age in ("new", "old"))
    if old.exists() and not out.exists():  # a swap that was cut short
        old.rename(out)
    if out.exists() and not FOLDED.on(out) and (not out.is_dir() or any(out.iterdir())):
        raise NotOurs(
            f"{out} is no folded model, and is left as it is: {contents(out)}.",
            "Choose another --out.",
        )
    if FOLDED.on(out) and not overwrite:
        raise ModelError(f"{out} exists.", "Choose another --out, or replace it with --overwrite.")
    for leftover in (new, old):
        if leftover.exists():
            FOLDED.remove(leftover)
    try:
        new.mkdir()
        model.save_pretrained(new)
        if export:
            # It imports torch.export, which a prediction does not need.
            from c2s.deploy.export import export_program

            export_program(model, new / "model.pt2")
        _make_durable(new)
        if FOLDED.on(out):
            out.rename(old)
        new.rename(out)
        sync_directory(out.parent)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(new, ignore_errors=True)
        raise
    if old.exists():
        FOLDED.remove(old)


def _make_durable(folder: Path) -> None:
    """Have all files of a folder on the disk."""
    for file in folder.iterdir():
        with file.open("rb") as content:
            os.fsync(content.fileno())
    sync_directory(folder)
