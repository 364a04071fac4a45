"""`c2s train`: distil a student from a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from c2s.cli.options import ALLOW_CODE
from c2s.config import gathered, merge, require_said_once
from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from c2s.runs.config import TrainConfig
    from c2s.training.proposal import Plan


def train(
    cache: Annotated[
        str | None, typer.Option(help="Cache to train from: directory or URL.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Whose objective, or python:MODULE:CLASS [default: clip-to-seg]."),
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="Student: see c2s students list [default: segformer-b4].")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Pretrained backbone: safetensors file, folder or hub id.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Iterations [default: the paper's for the data set].")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per iteration [default: 16].")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed [default: 0].")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run folder [default: STUDENT-CACHE-seedN].")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder that holds runs [default: runs].")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Loader processes [default: 4].")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="cache, or online: CLIP in the training loop (c2s[build]) [default: cache]."
        ),
    ] = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option(help="Of an online teacher: checkpoint file or local-dir:FOLDER."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Named settings of the method below --config and --set, such as paper or best."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. method.tau=0.05.")
    ] = None,
    self_train: Annotated[
        Path | None,
        typer.Option(
            help="Inductive run to continue transductively: from half its schedule, with the names of "
            "unseen classes known. Takes over its settings and cache."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to continue, exactly as if it had not been interrupted. Beside it: --cache "
            "(where the same cache lies now), --workers, --iterations (more of them) and --set of lr, "
            "precision or what decides nothing of what is learnt."
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Train nothing: try a few images, and say what would be trained, and what memory and hours it takes.",
        ),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the plan as a JSON object.")] = False,
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a run of the same name.")] = False,
) -> None:
    """Train a student from a teacher cache; one folder under runs/ per run."""
    options: dict[str, Any] = {
        "cache": cache,
        "student": student,
        "weights": weights,
        "iterations": iterations,
        "batch_size": batch_size,
        "seed": seed,
        "name": name,
        "runs": runs,
        "workers": workers,
        "teacher": teacher,
        "teacher_weights": teacher_weights,
        "self_train": self_train,
        "method": None if method is None else {"name": method},
    }
    require_said_once(set_ or (), options)
    if json_ and not plan:
        raise ConfigError("--json has no effect without --plan.")
    if resume is not None:
        taken = {key: options.pop(key) for key in ("cache", "iterations", "workers")}
        given = [key for key, value in options.items() if value is not None]
        given += [key for key, value in (("recipe", recipe), ("config", config)) if value]
        given += [key for key, value in (("overwrite", overwrite), ("plan", plan)) if value]
        if given:
            extra = ", ".join("--" + key.replace("_", "-") for key in given)
            raise ConfigError(f"--resume continues a run as it was configured; drop {extra}.")
        from c2s.online import load_online_teacher
        from c2s.runs.folder import read_config
        from c2s.training import run
        from c2s.validation_set import load_validation_set

        settings = read_config(resume, allow_code=allow_code)

        def work() -> Path:
            given = (set_ or (), allow_code)
            return run.resume(resume, load_online_teacher, load_validation_set, *given, **taken)

    else:
        if cache is None and config is None and self_train is None:
            raise ConfigError(
                "c2s train needs --cache PATH (or --resume RUN, or --self-train RUN)."
            )
        from c2s.methods.recipes import load_recipe
        from c2s.methods.registry import named
        from c2s.online import load_online_teacher
        from c2s.runs.config import load_config, require_own_method
        from c2s.students.registry import require_no_code
        from c2s.training import run
        from c2s.training.self_training import inherited
        from c2s.validation_set import load_validation_set

        if config is not None:
            require_own_method(config, allow_code)
        below = {} if self_train is None else inherited(self_train, allow_code)
        whose = named(gathered(below, config, set_ or (), options).get("method"))
        defaults = _defaults(cache, whose, student) if self_train is None else below
        chosen = load_recipe(recipe, whose)
        defaults = merge(defaults, chosen.train)
        settings = load_config(config, set_ or (), defaults, allow_code, **options)
        if student is None and not any(s.startswith("student=") for s in set_ or ()):
            require_no_code(settings.student, config or self_train, allow_code)
        _say_unlike(chosen.build, recipe, settings.cache)
        whole = config is not None or self_train is not None or recipe is not None
        free = _open(set_ or (), options, defaults) if not whole else frozenset()
        if plan:
            planned = _planned(settings, free)
            say_doubts([planned.config], settings.cache)
            _show(planned, json_)
            return
        if free and settings.devices * settings.nodes == 1:
            below = merge(defaults, _proposed(settings, free))
            settings = load_config(config, set_ or (), below, allow_code, **options)
        say_doubts([settings], settings.cache)

        def work() -> Path:
            return run.train(settings, overwrite, load_online_teacher, load_validation_set)

    path = _spoken_once(settings, work)
    if path is None:
        return
    typer.echo(f"{path} is complete.")
    typer.echo(_next_command(path))


def _open(
    assignments: Sequence[str], options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> frozenset[str]:
    """Settings that nobody has given and that are proposed; none where somebody has given the student, or weights that
    are one's."""
    from c2s.training.proposal import OPEN

    given = gathered({}, None, assignments, options)
    if "student" in given or "weights" in given or "student" in defaults:
        return frozenset()
    return OPEN - given.keys() - ({"iterations"} if "epochs" in given else set())


def _proposed(settings: TrainConfig, free: frozenset[str]) -> dict[str, Any]:
    """What is chosen for the machine, which is said on stderr; tried only where that can tell."""
    from c2s.training.proposal import needs_trial, without_trial

    if needs_trial(settings, free):
        typer.echo("trying two iterations, to choose what nobody has said", err=True)
        return _planned(settings, free).settings
    found = without_trial(settings, free)
    _say_chosen(found.get("proposed", ()))
    return found


def _planned(settings: TrainConfig, free: frozenset[str]) -> Plan:
    """A plan of the training with what is chosen for the machine, which is said on stderr."""
    from c2s.training.proposal import plan_training
    from c2s_cache.reader import open_cache

    cache = open_cache(settings.cache, settings.method.read_stages(), settings.parts)
    found = plan_training(settings, cache, free)
    _say_chosen(found.config.proposed)
    return found


def _say_chosen(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        typer.echo(f"chosen: {sentence}", err=True)


def _show(plan: Plan, as_json: bool) -> None:
    """Print a plan; refuse it if it does not fit.

    Raises:
        ConfigError: after printing.
    """
    config = plan.config
    facts = {
        "settings": config.model_dump(mode="json"),
        "seconds_per_iteration": round(plan.seconds, 4),
        "hours": round(plan.hours, 4),
        "bytes": plan.bytes,
        "available_bytes": plan.available,
        "fits": plan.fits,
    }
    typer.echo(
        json.dumps(facts)
        if as_json
        else f"{config.student}, {config.total:,} iterations of {config.batch_size} images at "
        f"{config.image_size} px, on a {'GPU' if plan.gpu else 'CPU'}: {plan.seconds:.2g} s each, "
        f"{plan.hours:.1f} hours; {plan}."
    )
    if not plan.fits:
        raise ConfigError(
            f"The training would hold {plan}.",
            "Choose a smaller --batch-size or --student, or --set image_size.",
        )


def _spoken_once(config: TrainConfig, work: Callable[[], Path]) -> Path | None:
    """What `work` returns; in all but the first of several processes None, also where all are stopped."""
    from c2s.training.processes import ProcessLost, first_process, is_helper
    from c2s.training.signals import Interrupted

    try:
        path = work()
    except (Interrupted, ProcessLost) as error:
        alone = isinstance(error, ProcessLost) and not is_helper()
        error.quiet = not (first_process(config) or alone)
        raise
    return path if first_process(config) else None


def say_doubts(runs: Sequence[TrainConfig], cache: str) -> None:
    """Say what of some runs on a cache is hardly meant, each thing once."""
    from c2s_cache.manifest_file import read_manifest

    manifest = read_manifest(cache)
    for sentence in dict.fromkeys(doubt for run in runs for doubt in run.doubts(manifest)):
        typer.echo(f"note: {sentence}", err=True)


def _say_unlike(build: Mapping[str, Any], recipe: str | None, cache: str) -> None:
    """Say so where a cache was built with other settings than the recipe that trains on it; stages that it lacks are
    for its reader to name."""
    from c2s_cache.manifest_file import read_manifest

    stages = read_manifest(cache).stages if build else ()
    requests = {stage.name: stage.settings for stage in stages}
    unlike = [
        (f"{stage}.{key}", value, requests[stage].get(key, "not recorded"))
        for stage, settings in build.items()
        if stage in requests
        for key, value in settings.items()
        if str(requests[stage].get(key)) != str(value)
    ]
    if unlike:
        wanted = " and ".join(f"{key}={value} (here {have})" for key, value, have in unlike)
        changes = " ".join(f"--set {_assignment(key, value)}" for key, value, _ in unlike)
        typer.echo(
            f"note: {cache} was not built as the recipe {recipe} has it: {wanted}. "
            f"Its measured gains are of such a cache: c2s cache derive {cache} --out NEW {changes}",
            err=True,
        )


def _assignment(key: str, value: Any) -> str:
    """key=value as a shell and `--set` take it."""
    return quote(f"{key}={value if isinstance(value, str) else json.dumps(value)}")


def _defaults(cache: str | None, method: str, student: str | None) -> dict[str, Any]:
    """Settings that suit the cache's data set, where the general ones do not."""
    from c2s.methods.registry import run_defaults
    from c2s_cache.manifest_file import read_manifest

    return {} if cache is None else run_defaults(method, read_manifest(cache).dataset, student)


def _next_command(path: Path) -> str:
    """How to score a run; one that learnt from photos alone has no label map to be scored on."""
    from c2s.datasets.registry import NAMES
    from c2s.runs.folder import read_info

    info = read_info(path)
    if not info.classes:
        words = '--classes "one word, another"'
        return f"Segment photos with: c2s predict PHOTOS --run {path} {words} --out out"
    name = info.dataset if info.dataset in NAMES else f"PATH/TO/{info.dataset}"
    return f"Evaluate it with: c2s eval --run {path} --dataset {name}"
