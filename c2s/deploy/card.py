"""Invariant: the model card is generated from `config.json` alone, and says nothing that is not known."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from c2s.deploy.info import ModelInfo, Scores
from c2s.evaluation.confusion import METRICS

LOGITS = {
    "folded": "A logit is the cosine between a feature and a class embedding, times the norm of the feature",
    "asked": "A logit is the student's own score of a class embedding",
}
BUILT_IN = {
    "folded": "the text embeddings of its classes are folded into its last layer",
    "asked": "the text embeddings of its classes are tensors of the model",
}
USAGE = """\
```python
from c2s.deploy import SegmentationModel
from PIL import Image

model = SegmentationModel.from_pretrained("PATH OR HUB ID OF THIS MODEL")
labels = model.segment(Image.open("photo.jpg"))  # int64 [H, W], indices into the classes
names = model.config.classes
```

`model(images)` gives logits [B, K, h, w], at the architecture's own resolution, of images [B, 3, H, W] with \
RGB / 255 normalised by the mean and standard deviation below. LOGIT; it is no calibrated probability."""


def model_card(info: ModelInfo) -> str:
    """The README.md of a folded model: metadata of the hub as YAML, then Markdown."""
    name = f"{info.student}-{info.dataset}"
    data = ModelCardData(
        license=info.license,
        library_name="c2s",
        pipeline_tag="image-segmentation",
        tags=["zero-shot-segmentation", "semantic-segmentation", "clip", "distillation"],
        model_name=name,
        eval_results=[r for s in info.scores for r in _results(s)] or None,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        _summary(info),
        "## Use",
        USAGE.replace("LOGIT", LOGITS[info.kind]),
        "## Classes",
        _classes(info),
        *(("## Scores", _scores(info)) if info.scores else ()),
        "## Training",
        _training(info),
        "## Licence",
        _license(info),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(info: ModelInfo) -> str:
    teacher = info.teacher["name"]
    return (
        f"A `{info.student}` that segments {len(info.classes)} classes, {len(info.unseen)} of which were "
        f"never annotated in its training: it was distilled from the CLIP `{teacher}` with c2s, and "
        f"{BUILT_IN[info.kind]}. No part of CLIP is needed to run it, and it costs what any "
        f"`{info.student}` with as many classes costs."
    )


def _classes(info: ModelInfo) -> str:
    rows = [
        f"| {i} | {name} | {'unseen' if i in info.unseen else 'seen'} |"
        for i, name in enumerate(info.classes)
    ]
    return "\n".join(["| id | class | in training |", "|---|---|---|", *rows])


def _scores(info: ModelInfo) -> str:
    head = f"| data set | split | setting | scores | mode | images | {' | '.join(METRICS)} |"
    rows = [
        f"| {s.dataset} | {s.split} | {s.setting} | {_scored(s)} | {s.mode} | {s.images} | "
        + " | ".join(_figure(getattr(s, key)) for key in METRICS)
        + " |"
        for s in info.scores
    ]
    note = (
        "In per cent, over all classes, by `c2s eval`. This model's scores are logits. Cosines, which the "
        "run had before it was folded, may give other classes where scores are interpolated or averaged."
    )
    return "\n".join([head, "|---" * (6 + len(METRICS)) + "|", *rows]) + f"\n\n{note}"


def _training(info: ModelInfo) -> str:
    setting = (
        "names of the unseen classes known to training (transductive)"
        if info.transductive
        else "names of the unseen classes unknown to training (inductive)"
    )
    facts = {
        "data set": info.dataset,
        "iterations": info.iterations,
        "setting": setting,
        "backbone from": f"`{info.backbone}`" if info.backbone else "the student's default",
        "teacher": f"`{info.teacher['name']}`, weights `{info.teacher['pretrained']}`, "
        f"SHA-256 `{info.teacher['digest']}`",
        "view and window": f"{info.crop} x {info.crop} pixels",
        "mean, RGB / 255": ", ".join(f"{v:.4f}" for v in info.mean),
        "standard deviation": ", ".join(f"{v:.4f}" for v in info.std),
        "versions": ", ".join(f"{k} {v}" for k, v in sorted(info.versions.items())),
    }
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def _license(info: ModelInfo) -> str:
    others = [f"the images of {info.dataset}", "the teacher's weights"]
    if info.backbone:
        others.append(f"the backbone's weights `{info.backbone}`")
    return f"`{info.license}`. The code of c2s is Apache-2.0; the terms of {', '.join(others)} apply besides."


def _results(scores: Scores) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=scores.dataset,
            dataset_name=scores.dataset,
            dataset_split=scores.split,
            metric_type=key,
            metric_value=getattr(scores, key),
        )
        for key in METRICS
        if getattr(scores, key) is not None
    ]


def _scored(scores: Scores) -> str:
    if scores.folded:
        return "logits"
    return f"cosines, {scores.seen_offset:g} off seen ones" if scores.seen_offset else "cosines"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
