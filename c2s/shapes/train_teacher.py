"""Train the world's CLIP teacher: contrastive learning on captioned scenes of all classes, in two stages.

    python -m c2s.shapes.train_teacher --out first --seed 0
    python -m c2s.shapes.train_teacher --out c2s/shapes/shapes-clip --stage scenes --start first --seed 0

The recipe is CLIP's (symmetric cross-entropy over a batch of images and captions) with what two CPU cores need. Equal
captions are positives of each other, and a caption contained in another is neither positive nor negative. In the first
stage 70 % of the images are *masked views* (everything but one class is black, the caption names that class), because
the cache asks the teacher about such regions, and an image speaks by the mean of its patch tokens, so that text and
patch tokens share a space. The second begins with these weights and adds what other methods ask: a CLS token, which
speaks for the image beside the mean; synonyms; views on grey, unmasked crops and close-ups up to 4.2, captioned with
what is mainly visible; and windows of a scene's patch tokens, which speak for the caption of a crop there, most of them
small and around things. What is saved speaks by the mean again, or by the CLS token if `pool_type` is set to "tok".
Labels are used for cutting out views and for captions, and for nothing else.

The card that is written beside the weights says what the run cost; `python -m c2s.demo.teacher_report`
adds what the result can do.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from c2s.shapes.contrastive import content_words, contrastive_loss
from c2s.shapes.scenes import SIZE
from c2s.shapes.tokenizer import CONTEXT, FILLER, vocabulary, write_tokenizer
from c2s.shapes.web import Batch, Batches, Views, render_web
from c2s.tensor_file import write_whole

MEAN, STD = 0.5, 0.25
AVERAGE = 0.997  # of the exponential mean of the weights, which is what is saved
WEIGHT_DECAY = 0.05
MUON_LR = 3.0  # Muon's rate in units of AdamW's
LOG_EVERY = 100  # steps
WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Attributes:
        views: what is shown.
        pool: "avg": images speak by the mean of their tokens alone; "tok": by the CLS token, and by the mean as well.
            What is saved pools by the mean; both kinds have the same weights.
        samples: images to see; the learning rate falls to a hundredth over them.
        scenes: size of the pool.
        lr: largest learning rate of AdamW.
        warmup: steps.
    """

    views: Views
    pool: str
    samples: int
    scenes: int
    lr: float
    warmup: int


STAGES = {
    "regions": Stage(Views("web", masked=0.7), "avg", 420_000, 40_000, 2e-3, 200),
    "scenes": Stage(
        Views("close", masked=0.25, grey=0.1, crops=0.15, windows=6, around=0.6, synonyms=True),
        "tok", 115_200, 12_000, 6e-4, 30,
    ),
}  # fmt: skip
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": SIZE, "patch_size": 8, "width": 128, "head_width": 32, "layers": 6,
        "pool_type": "avg",
    },
    "text_cfg": {
        "context_length": CONTEXT, "vocab_size": 0, "width": 128, "heads": 4, "layers": 2,
        "hf_tokenizer_name": "c2s/shapes",
    },
}  # fmt: skip
PREPROCESS_CFG = {
    "size": [SIZE, SIZE], "mode": "RGB", "mean": [MEAN] * 3, "std": [STD] * 3,
    "interpolation": "bicubic", "resize_mode": "squash", "fill_color": 0,
}  # fmt: skip


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as two matrix products: on CPU the fused bfloat16 backward is ten times slower."""
    fused = F.scaled_dot_product_attention

    def attention(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *_: object, **__: object
    ) -> Tensor:
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if attn_mask is not None:
            logits = logits + attn_mask
        weighted: Tensor = logits.softmax(-1).to(v.dtype) @ v
        return weighted

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused


def normalise(images: Tensor) -> Tensor:
    """uint8 [B,H,W,3] -> float32 [B,3,H,W], normalised as the preprocess_cfg says."""
    return (rearrange(images, "b h w c -> b c h w").float() / 255 - MEAN) / STD


def encode_captions(model: Any, tokenizer: Any, captions: list[str]) -> Tensor:
    """Unit-norm text embeddings [n,D]; each distinct caption once, 5 % of filler words as [UNK]."""
    distinct = list(dict.fromkeys(captions))
    tokens = tokenizer(distinct)
    filler = (tokens > 2) & (tokens < 3 + len(FILLER))
    tokens = torch.where(filler & (torch.rand(tokens.shape) < 0.05), 1, tokens)
    place = {caption: i for i, caption in enumerate(distinct)}
    index = torch.tensor([place[caption] for caption in captions])
    features: Tensor = model.encode_text(tokens)
    return F.normalize(features.float(), dim=-1)[index]


def model_cfg(stage: Stage) -> dict[str, Any]:
    """Architecture of a stage, as it is saved: the second knows more words."""
    config = copy.deepcopy(MODEL_CFG)
    config["text_cfg"]["vocab_size"] = len(vocabulary(stage.views.synonyms))
    return config


def save(model: nn.Module, folder: Path, config: dict[str, Any]) -> None:
    """Write the folder that `open_clip.create_model("local-dir:...")` loads, weights as float16.

    The image tower's positions stay float32: open_clip resizes them for other input sizes, which
    PyTorch cannot do in float16 on a CPU.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    for name in weights.keys() & {"visual.positional_embedding"}:
        weights[name] = model.state_dict()[name].clone()
    write_whole(
        folder / WEIGHTS,
        lambda part: save_file(weights, part, metadata={"format": "pt"}),
    )
    described = {"model_cfg": config, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(
        json.dumps(described, indent=2) + "\n", encoding="utf-8"
    )


def make_optimizers(clip: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer blocks, AdamW for everything else.

    In trials of five minutes (batch 96) it named 52.9 % of the regions after 33 k images at rate 3e-3,
    AdamW alone 43.1 % after 37 k at 1.2e-3.
    """
    matrices: list[nn.Parameter] = []
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in clip.named_parameters():
        inner = "resblocks" in name and parameter.ndim == 2
        (matrices if inner else decay if parameter.ndim >= 2 else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=MUON_LR * lr, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
    )
    groups = [
        {"params": decay, "weight_decay": WEIGHT_DECAY},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizers = [muon, torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def start_weights(folder: Path, synonyms: bool, own: Tensor) -> dict[str, Tensor]:
    """Weights of a teacher folder as float32, its words in the order of the vocabulary with or without synonyms.

    Args:
        folder: of the teacher.
        synonyms: whether the vocabulary has them.
        own: float32 [V,W], word embeddings for the words that this teacher does not know.

    Raises:
        OSError: it cannot be read.
    """
    state = {k: v.float() for k, v in load_file(folder / WEIGHTS).items()}
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    known, words, rows = tokenizer["model"]["vocab"], vocabulary(synonyms), own.clone()
    for word in known.keys() & words.keys():
        rows[words[word]] = state["token_embedding.weight"][known[word]]
    return {**state, "token_embedding.weight": rows}


def image_loss(clip: Any, batch: Batch, tokenizer: Any) -> Tensor:
    """Sum of the contrastive losses of all that speaks for an image: see `Stage.pool` and `Batch.windows`."""
    with torch.autocast("cpu", torch.bfloat16), plain_attention():
        pooled, tokens = clip.visual(normalise(batch.images))
        tokens = (tokens @ clip.visual.proj).float()
        text = encode_captions(clip, tokenizer, [*batch.captions, *batch.window_captions])
    count, scale = len(batch.captions), clip.logit_scale.exp()
    bags = content_words([*batch.captions, *batch.window_captions])
    vectors = [pooled.float()]
    if clip.visual.pool_type == "tok":
        vectors.append(tokens.mean(1))
    losses = [
        contrastive_loss(F.normalize(v, dim=-1), text[:count], bags[:count], batch.denied, scale)
        for v in vectors
    ]
    if len(batch.windows):
        windows = (batch.windows[:, None] @ tokens[batch.owners])[:, 0]
        windows, denied = F.normalize(windows, dim=-1), batch.denied[batch.owners]
        losses.append(contrastive_loss(windows, text[count:], bags[count:], denied, scale))
    return torch.stack(losses).sum()


def train(
    out: Path, stage: Stage, seed: int, batch_size: int, start: Path | None, end: int | None = None
) -> list[float]:
    """Train for one stage; writes the teacher folder `out`, but for its card, every hundred steps and at the end.

    Args:
        out: teacher folder to write.
        stage: what to train on.
        seed: of the weights and batches.
        batch_size: images per step.
        start: teacher folder whose weights to begin with; None: random ones.
        end: steps of the stage's schedule to break off after; None: all.

    Returns:
        The mean loss of each hundred steps.

    Raises:
        OSError: `out` cannot be written, or `start` not read.
    """
    import open_clip

    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    config, synonyms = model_cfg(stage), stage.views.synonyms
    clip: Any = open_clip.model.CLIP(**copy.deepcopy(config))
    clip.visual.pool_type = stage.pool
    if start is not None:
        own = clip.state_dict()["token_embedding.weight"]
        clip.load_state_dict(start_weights(start, synonyms, own))
    write_tokenizer(out, synonyms)
    save(clip, out, config)
    clip.visual.output_tokens = True
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    print(f"drawing {stage.scenes} scenes", flush=True)
    web = render_web(stage.views.split, stage.scenes)
    optimizers = make_optimizers(clip, stage.lr)
    averaged = copy.deepcopy(clip).requires_grad_(False)
    steps, began = stage.samples // batch_size, time.monotonic()
    losses: list[float] = []
    batches = islice(Batches(web, stage.views, batch_size, seed), min(steps, end or steps))
    for step, batch in enumerate(batches):
        factor = min(1, (step + 1) / stage.warmup) * (0.01 + 0.99 * _cosine(step / steps))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group["peak_lr"]
        loss = image_loss(clip, batch, tokenizer)
        clip.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(100))
            rate = min(AVERAGE, (step + 1) / (step + 20))
            for mean, value in zip(averaged.parameters(), clip.parameters(), strict=True):
                mean.lerp_(value, 1 - rate)
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            minutes, scale = (time.monotonic() - began) / 60, clip.logit_scale.exp().item()
            print(
                f"{minutes:6.2f} min {(step + 1) * batch_size:8d} samples  "
                f"loss {np.mean(losses[-LOG_EVERY:]):.4f}  scale {scale:.1f}",
                flush=True,
            )
            save(averaged, out, config)
    save(averaged, out, config)
    hundreds = range(0, len(losses), LOG_EVERY)
    return [round(float(np.mean(losses[i : i + LOG_EVERY])), 4) for i in hundreds]


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def write_card(out: Path, card: dict[str, Any], start: Path | None) -> None:
    """Write card.json: the stages so far, those of the folder it began with first."""
    before = (
        []
        if start is None
        else json.loads((start / "card.json").read_text(encoding="utf-8"))["stages"]
    )
    whole = {"name": "shapes-clip", "stages": [*before, card]}
    (out / "card.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _positive(said: str) -> int:
    if (number := int(said)) < 1:
        raise argparse.ArgumentTypeError(f"{said} is not 1 or more")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES, default="regions")
    parser.add_argument("--start", type=Path, help="teacher folder to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=_positive, help="images to see [default: the stage's]")
    parser.add_argument(
        "--steps", type=_positive, help="break off after so many; the schedule stays whole"
    )
    parser.add_argument("--batch-size", type=_positive, default=96)
    args = parser.parse_args()
    stage = STAGES[args.stage]
    stage = replace(stage, samples=args.samples or stage.samples)
    if args.start is not None and not (args.start / WEIGHTS).is_file():
        parser.exit(1, f"error: there is no teacher in {args.start} to begin with.\n")
    began = time.monotonic()
    try:
        losses = train(args.out, stage, args.seed, args.batch_size, args.start, args.steps)
        card = {
            "stage": args.stage, "seed": args.seed, "samples": stage.samples,
            **({"broken_off_after": args.steps} if args.steps else {}),
            "minutes": round((time.monotonic() - began) / 60, 1), "losses": losses,
            "command": "python -m c2s.shapes.train_teacher " + " ".join(sys.argv[1:]),
            "versions": {name: version(name) for name in ("torch", "open_clip_torch", "numpy")},
        }  # fmt: skip
        write_card(args.out, card, args.start)
    except OSError as error:
        parser.exit(1, f"error: the teacher cannot be written: {error}.\n")


if __name__ == "__main__":
    main()
