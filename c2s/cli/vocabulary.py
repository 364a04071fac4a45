"""Invariant: what eval, predict and fold take for classes is said, read and embedded in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from c2s.cli.lists import LISTS, Names, class_names
from c2s_cache.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from c2s.datasets import Dataset
    from c2s.runs.run import Run
    from c2s.vocabulary import Vocabulary

DEFAULT_TEMPLATES = ("a photo of a {}",)
"""For runs whose class embeddings were imported: the paper's."""


def run_vocabulary(run: Run, classes: Names | None, source: Path | None = None) -> Vocabulary:
    """The classes that are named, those of a cache, or the run's own.

    Args:
        run: opened run.
        classes: names per class, or None.
        source: a cache with its classes, or a .npy file with an embedding for each name.

    Raises:
        ConfigError: names without a use, or embeddings without names.
    """
    from c2s.evaluation.vocabulary import foreign_vocabulary, stored_embeddings
    from c2s_cache.reader import Cache

    if source is not None and source.suffix != ".npy":
        if classes is not None:
            raise ConfigError(f"The cache {source} has its own class names; drop --classes.")
        own = Cache(source).manifest
        stored = stored_embeddings(source, run, own.classes, own.dataset)
        return foreign_vocabulary(run, [(name,) for name in own.classes], stored)
    if classes is None:
        if source is not None:
            raise ConfigError(f"{source} holds no names; give them in its order with --classes.")
        return run.vocabulary
    if source is not None:
        return foreign_vocabulary(run, classes, stored_embeddings(source, run, (), str(source)))
    return foreign_vocabulary(run, classes, class_embeddings(run, _every(classes)))


def data_vocabulary(run: Run, data: Dataset, source: str | None) -> Vocabulary:
    """The classes of a data set, the run's own or another.

    Args:
        run: opened run.
        data: the data set.
        source: of another's text embeddings: a cache of it, a .npy file, "names", or a YAML list of names per
            class, in its order; None: it is the run's own.

    Raises:
        ConfigError: the classes are others than those of the run, of the cache or of the list.
    """
    from c2s.evaluation.evaluate import check_classes
    from c2s.evaluation.vocabulary import foreign_vocabulary, stored_embeddings

    if source is None:
        check_classes(run, data.classes, data.name)
        return run.vocabulary
    names: Names = tuple((prompt,) for prompt in data.prompts)
    if source.endswith(LISTS):
        names = class_names(source)
        if len(names) != len(data.classes):
            raise ConfigError(
                f"{source} names {len(names)} classes; {data.name} has {len(data.classes)}."
            )
    if source == "names" or source.endswith(LISTS):
        embeddings = class_embeddings(run, _every(names))
    else:
        embeddings = stored_embeddings(Path(source), run, data.classes, data.name)
    return foreign_vocabulary(run, names, embeddings, data.classes)


def class_embeddings(run: Run, names: Sequence[str]) -> NDArray[np.floating]:
    """Text embeddings of names, float32 [M, D], from the run or else the text tower.

    Names are those of the run's classes or its prompts; others are put into the templates of the run.

    Raises:
        MissingExtra: a name is unknown to the run and the build extra is not installed.
        ConfigError: the teacher's weights are not found under its name, or are others.
    """
    import numpy as np

    from c2s.shapes.defaults import own_teacher

    info = run.info
    known = {
        name: run.embeddings[i]
        for spelling in (info.prompts, info.classes)
        for i, name in enumerate(spelling)
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        try:
            from c2s_pipeline.teachers.text import embed_names

            teacher, templates = info.teacher, info.templates or DEFAULT_TEMPLATES
            name = own_teacher(teacher["name"]) or teacher["name"]
            weights, digest = teacher["pretrained"], teacher["digest"]
            activation = teacher.get("activation")
            found = embed_names(name, weights, unknown, templates, digest, activation)
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"The run has no text embedding of {', '.join(unknown)}; the teacher's text tower "
                f"is needed, but {error.name} is not installed.",
                "Install it with: pip install 'c2s[build]'",
            ) from error
        known |= dict(zip(unknown, found, strict=True))
    return np.stack([known[name] for name in names]).astype(np.float32)


def _every(names: Names) -> list[str]:
    return [name for each in names for name in each]
