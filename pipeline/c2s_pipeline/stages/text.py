"""Stage `text`: one embedding per class, of its name in sentences, or imported."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Block, ConfigError, StageRecord
from c2s_cache.integrity import Finding
from c2s_cache.text_rows import require_told_apart
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import Once, Outline, Stage, StageSettings, option
from c2s_pipeline.teachers.templates import template_set

PATH = "text/embeddings"
NOT_BESIDE = "the embeddings are imported"


class TextSettings(StageSettings):
    """The class embeddings are those of `prompts` (default: the class names, or with `clean_names` what the data set
    has in their place for sentences) in the template set `templates` (a name, or sentences with one `{}` each), or come
    from the file `embeddings`, whose rows a trained teacher must take for their classes unless `check` is off."""

    prompts: tuple[str, ...] | None = None
    templates: str | tuple[str, ...] = option(
        "--templates", "single, zegclip15, imagenet80 or maskclip85", default="single"
    )
    clean_names: bool = option(
        "--clean-names",
        'Prompt with "potted plant", not "pottedplant"',
        default=False,
        exclude=True,
    )
    embeddings: Path | None = option(
        "--text-embeddings",
        ".npy of class embeddings, a row per class, in place of the text tower",
        exclude=True,
    )
    check: bool = option(
        "--unchecked-text",
        "Take these rows even if the teacher takes them for other classes",
        default=True,
        exclude=True,
    )

    def idle(self) -> Mapping[str, str]:
        """See `StageSettings.idle`."""
        if self.embeddings is None:
            named = {} if self.prompts is None else {"clean_names": "the names are given"}
            return {"check": "no file of embeddings brings the text", **named}
        return dict.fromkeys(("prompts", "templates", "clean_names"), NOT_BESIDE)


class Text(Stage):
    """Text embeddings of all classes, seen and unseen."""

    name = "text"
    Settings = TextSettings
    settings: TextSettings
    once = True
    inspected = (PATH,)

    def wanted(self, source: SplitInfo) -> bool:
        """Photos alone have no class names."""
        return bool(source.classes)

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {PATH: ArrayRecord(axes=("class", "channel"), dtype="float32")}

    def check(self, outline: Outline) -> None:
        """See `Stage.check`; there must be a prompt for each class, and a template."""
        super().check(outline)
        prompts, classes = self._prompts(outline), outline.source.classes
        if prompts is not None and len(prompts) != len(classes):
            raise ConfigError(
                f"text.prompts has {len(prompts)} names for the {len(classes)} classes."
            )
        if self.settings.templates == ():
            raise ConfigError("text.templates: expected at least one sentence.")

    def asked(self, outline: Outline) -> dict[str, Any]:
        """The sentences themselves, and prompts only where they are not the class names."""
        if (kept := self._kept(outline)) is not None:
            return kept.settings
        settings = super().asked(outline)
        if "templates" in settings:
            chosen = self.settings.templates
            settings["templates"] = list(
                template_set(chosen) if isinstance(chosen, str) else chosen
            )
        prompts = self._prompts(outline)
        if prompts is None or prompts == outline.source.classes:
            settings.pop("prompts", None)
        else:
            settings["prompts"] = list(prompts)
        return settings

    def _prompts(self, outline: Outline) -> tuple[str, ...] | None:
        return outline.source.prompts if self.settings.clean_names else self.settings.prompts

    def given(self, outline: Outline) -> dict[str, Any]:
        """The digest of imported rows; a derived cache keeps those of its base where no others are asked for."""
        if self.settings.embeddings is not None:
            rows = self._imported(outline.source.classes, outline.teacher.dim)
            return {"imported": hashlib.sha256(rows.tobytes()).hexdigest()}
        kept = self._kept(outline)
        return {} if kept is None else kept.given

    def _kept(self, outline: Outline) -> StageRecord | None:
        """What the base of a derived cache says of imported rows, where nothing else is asked for."""
        base = outline.base
        if base is None or self.name not in base.stage_names or self.settings != TextSettings():
            return None
        before = base.stage(self.name)
        return before if before.given and base.classes == outline.source.classes else None

    def decisive(self, outline: Outline) -> tuple[str, ...]:
        """Imported rows depend on nothing but themselves."""
        if self.given(outline):
            return ()
        return ("teacher.text_digest", "classes")

    def compute_once(self, build: Once) -> Mapping[str, NDArray[Any]]:
        """The teacher's own embeddings, or imported ones that it takes for the right classes."""
        from c2s_pipeline.teachers.imported_text import check_rows
        from c2s_pipeline.teachers.text import class_embeddings, say_cut, say_unknown

        classes, settings = build.manifest.classes, self.settings
        asked = build.manifest.stage(self.name).settings
        names = tuple(asked.get("prompts", classes))
        if settings.embeddings is None:
            sentences = asked["templates"]
            rows = class_embeddings(build.teacher.text, names, sentences, build.progress)
            say_cut(build.teacher.text, names, sentences)
            say_unknown(build.teacher.text, names, sentences, rows)
        else:
            rows = self._imported(classes, build.manifest.teacher.dim)
            if settings.check:
                check_rows(rows, build.teacher, names, classes, settings.embeddings)
        require_told_apart(names, rows, range(len(names)), "the class names")
        return {PATH: rows}

    def project_once(self, build: Once) -> tuple[float, int]:
        """From a few classes."""
        from c2s_pipeline.teachers.text import class_embeddings

        classes = build.manifest.classes
        size = 4 * len(classes) * build.manifest.teacher.dim
        if self.settings.embeddings is not None:
            return 0.0, size
        began = time.perf_counter()
        sentences = build.manifest.stage(self.name).settings["templates"]
        class_embeddings(build.teacher.text, classes[:4], sentences)
        return (time.perf_counter() - began) * len(classes) / len(classes[:4]), size

    def _imported(self, classes: tuple[str, ...], dim: int) -> NDArray[np.float32]:
        from c2s_pipeline.teachers.imported_text import load_embeddings

        assert self.settings.embeddings is not None
        return load_embeddings(self.settings.embeddings, classes, dim)

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Rows that are not of unit norm."""
        rows = block.arrays.get(PATH)
        if rows is not None and not np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3):
            yield Finding("values", PATH, "a class embedding is not of unit norm")
