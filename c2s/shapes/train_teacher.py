"""Train the world's CLIP teacher: contrastive learning on captioned "web" scenes of all classes.

    python -m c2s.shapes.train_teacher --out c2s/shapes/shapes-clip --seed 0

The recipe is CLIP's (symmetric cross-entropy over a batch of images and captions) with three
additions that two CPU cores need: 70 % of the images are *masked views* (everything but one class
is black, the caption names that class), because the cache asks the teacher about such regions;
equal captions are positives of each other, and a caption contained in another is neither positive
nor negative; the tower pools by averaging its tokens, so that text and patch tokens share a space.
Labels are used for cutting out the masked views and for nothing else.

The card that is written beside the weights says what the run cost; `python -m c2s.demo.teacher_report`
adds what the result can do.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from c2s.shapes.scenes import CLASSES, COLOURS, SIZE
from c2s.shapes.tokenizer import CONTEXT, FILLER, vocabulary, write_tokenizer
from c2s.shapes.web import Batches, render_web
from c2s.tensor_file import write_whole

MEAN, STD = 0.5, 0.25
WARMUP = 200  # steps
AVERAGE = 0.997  # of the exponential mean of the weights, which is what is saved
WEIGHT_DECAY = 0.05
MUON_LR = 3.0  # Muon's rate in units of AdamW's
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


# --- loss ---


def content_words(captions: list[str]) -> Tensor:
    """Which colour and class words each caption has: float32 [n, V]."""
    content = {word: i for i, word in enumerate([*COLOURS, *CLASSES])}
    bags = torch.zeros(len(captions), len(content))
    for row, caption in enumerate(captions):
        for word in caption.split():
            if word in content:
                bags[row, content[word]] = 1
    return bags


def contrastive_loss(image: Tensor, text: Tensor, bags: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy with equal captions as joint positives.

    A caption whose words are a strict subset of another's is no negative: it may be true of both.

    Args:
        image: float32 [B,D], unit norm.
        text: float32 [B,D], unit norm.
        bags: float32 [B,V], content words of the captions.
        scale: multiplies the cosines.
    """
    missing = bags @ (1 - bags).T  # [B,B]: words of i that j lacks
    positive = (missing == 0) & (missing.T == 0)
    ignored = ((missing == 0) ^ (missing.T == 0)).to(image.dtype) * -1e4
    target = positive.to(image.dtype)
    logits = scale * image @ text.T + ignored
    target = target / target.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


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


# --- training ---


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


def save(model: nn.Module, folder: Path, card: dict[str, Any]) -> None:
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
        folder / "open_clip_model.safetensors",
        lambda part: save_file(weights, part, metadata={"format": "pt"}),
    )
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


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


def train(out: Path, seed: int, samples: int, scenes: int, batch_size: int, lr: float) -> None:
    """Train on `samples` images and captions; writes the teacher folder `out`.

    Args:
        out: teacher folder to write.
        seed: of the weights and batches.
        samples: images to see; the learning rate falls to a hundredth over them.
        scenes: size of the pool of web scenes.
        batch_size: images per step.
        lr: largest learning rate of AdamW.
    """
    import open_clip

    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out)
    MODEL_CFG["text_cfg"]["vocab_size"] = len(vocabulary())
    clip = open_clip.model.CLIP(**copy.deepcopy(MODEL_CFG))
    save(clip, out, {})
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    web = render_web(scenes)
    print(f"rendered {scenes} scenes", flush=True)
    optimizers = make_optimizers(clip, lr)
    averaged = copy.deepcopy(clip).requires_grad_(False)
    steps, start = samples // batch_size, time.monotonic()
    losses: list[float] = []
    for step, (images, captions) in enumerate(islice(Batches(web, batch_size, seed), steps)):
        factor = min(1, (step + 1) / WARMUP) * (0.01 + 0.99 * _cosine(step / steps))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group["peak_lr"]
        with torch.autocast("cpu", torch.bfloat16), plain_attention():
            image = F.normalize(clip.encode_image(normalise(images)).float(), dim=-1)
            text = encode_captions(clip, tokenizer, captions)
        loss = contrastive_loss(image, text, content_words(captions), clip.logit_scale.exp())
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
        if (step + 1) % 100 == 0:
            minutes, scale = (time.monotonic() - start) / 60, clip.logit_scale.exp().item()
            print(
                f"{minutes:6.2f} min {(step + 1) * batch_size:8d} samples  "
                f"loss {np.mean(losses[-100:]):.4f}  scale {scale:.1f}",
                flush=True,
            )
    card: dict[str, Any] = {
        "name": "shapes-clip", "seed": seed, "samples": steps * batch_size,
        "minutes": round((time.monotonic() - start) / 60, 1), "batch_size": batch_size,
        "scenes": scenes, "learning_rate": lr,
        "command": "python -m c2s.shapes.train_teacher --out DIR"
        f" --seed {seed} --samples {samples} --batch-size {batch_size} --lr {lr:g}",
        "versions": {
            "torch": torch.__version__, "open_clip": open_clip.__version__,
            "numpy": np.__version__,
        },
    }  # fmt: skip
    save(averaged, out, card)


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=500_000)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--lr", type=float, default=2e-3)
    try:
        train(**vars(parser.parse_args()))
    except OSError as error:
        parser.exit(1, f"error: the teacher cannot be written: {error}.\n")


if __name__ == "__main__":
    main()
