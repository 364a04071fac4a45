"""Train the demo's CLIP teacher: contrastive learning on captioned "web" scenes of all classes.

    python -m c2s.demo.train_teacher --out c2s/demo/teacher --seed 0 --minutes 60

The recipe is CLIP's (symmetric cross-entropy over a batch of images and captions) with three
additions that two CPU cores need: 70 % of the images are *masked views* (everything but one class
is black, the caption names that class), because the cache asks the teacher about such regions;
equal captions are positives of each other, and a caption contained in another is neither positive
nor negative; the tower pools by averaging its tokens, so that text and patch tokens share a space.
Labels are used for cutting out the masked views and for nothing else.

The learning rate follows the clock, so two runs on different machines see different numbers of
samples; the card that is written beside the weights says how many.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from c2s.demo.scenes import CLASSES, COLOURS, SIZE, TEMPLATES, THINGS, phrase, render

CONTEXT = 24
MEAN, STD = 0.5, 0.25
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
FILLER = (
    "a",
    "an",
    "the",
    "of",
    "and",
    "on",
    "in",
    "photo",
    "image",
    "picture",
    "drawing",
    ".",
    ",",
)
MASKED_SHARE, THING_SHARE, COLOUR_SHARE = 0.7, 0.75, 0.12
MIN_PIXELS = 50


# --- tokenizer ---


def vocabulary() -> dict[str, int]:
    """Word -> id. [PAD] is 0 and [EOT] the largest id, where open_clip's text tower pools."""
    words = ["[PAD]", "[UNK]", "[SOT]", *FILLER, *COLOURS, *CLASSES, "[EOT]"]
    return {word: i for i, word in enumerate(words)}


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json: word level, unknown words are [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = vocabulary()
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[SOT] $A [EOT]",
        special_tokens=[(word, vocab[word]) for word in ("[SOT]", "[EOT]")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[SOT]", "eos_token": "[EOT]",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


# --- the web ---


@dataclass
class Web:
    """A pool of N scenes.

    Attributes:
        images: uint8 [N,64,64,3].
        labels: uint8 [N,64,64].
        colours: int8 [N,C], index into COLOURS of each class's colour, -1 for none.
        captions: N sentences.
    """

    images: Tensor
    labels: Tensor
    colours: np.ndarray
    captions: list[str]


def _render_range(bounds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    names = list(COLOURS)
    scenes = [render("web", i) for i in range(*bounds)]
    colours = np.full((len(scenes), len(CLASSES)), -1, np.int8)
    for row, scene in enumerate(scenes):
        for name, colour in scene.colours.items():
            if colour is not None:
                colours[row, CLASSES.index(name)] = names.index(colour)
    images = np.stack([s.image for s in scenes])
    labels = np.stack([s.labels for s in scenes])
    return images, labels, colours, [s.caption for s in scenes]


def render_web(count: int) -> Web:
    """Render the first `count` web scenes in two processes."""
    step = 1000
    bounds = [(a, min(a + step, count)) for a in range(0, count, step)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_render_range, bounds))
    return Web(
        torch.from_numpy(np.concatenate([p[0] for p in parts])),
        torch.from_numpy(np.concatenate([p[1] for p in parts])),
        np.concatenate([p[2] for p in parts]),
        [caption for p in parts for caption in p[3]],
    )


class Batches:
    """Endless batches of (images uint8 [B,64,64,3], captions): whole scenes, then masked views."""

    def __init__(self, web: Web, batch_size: int, seed: int) -> None:
        self.web, self.batch_size = web, batch_size
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        pixels = torch.stack([(web.labels == c).sum((1, 2)) for c in range(len(CLASSES))], 1)
        self.rows_of = [np.flatnonzero(column >= MIN_PIXELS) for column in pixels.numpy().T]

    def __iter__(self) -> Iterator[tuple[Tensor, list[str]]]:
        masked = round(self.batch_size * MASKED_SHARE)
        while True:
            rows = self.rng.integers(len(self.web.captions), size=self.batch_size - masked)
            captions = [self.web.captions[i] for i in rows]
            images, names = self._masked(masked)
            whole = self.web.images[torch.from_numpy(rows)]
            yield mirror(torch.cat([whole, images]), self.generator), captions + names

    def _masked(self, count: int) -> tuple[Tensor, list[str]]:
        """Views of one class each on black, with captions; things are drawn more often."""
        things = self.rng.random(count) < THING_SHARE
        classes = np.where(
            things,
            self.rng.integers(len(THINGS), size=count),
            self.rng.integers(len(THINGS), len(CLASSES), size=count),
        )
        rows = np.array([self.rng.choice(self.rows_of[c]) for c in classes])
        index = torch.from_numpy(rows)
        mask = self._roughen(self.web.labels[index] == torch.from_numpy(classes)[:, None, None])
        captions = [self._name(int(c), int(r)) for c, r in zip(classes, rows, strict=True)]
        return self.web.images[index] * mask[..., None], captions

    def _name(self, index: int, row: int) -> str:
        colour = int(self.web.colours[row, index])
        if colour >= 0 and self.rng.random() < COLOUR_SHARE:
            words = phrase(CLASSES[index], list(COLOURS)[colour])
        elif self.rng.random() < 0.5:
            return f"a photo of a {CLASSES[index]}"  # the usual prompt, article and all
        else:
            words = phrase(CLASSES[index]) if index < len(THINGS) else CLASSES[index]
        return TEMPLATES[self.rng.integers(len(TEMPLATES))].format(words)

    def _roughen(self, mask: Tensor) -> Tensor:
        """Masks bool [n,64,64] as clustering gives them: exact, blocky, partial or too wide."""
        n = len(mask)
        kind = torch.rand(n, generator=self.generator)
        soft = mask[:, None].float()
        rough = mask.clone()
        for cell, low, high in ((8, 0.60, 0.68), (4, 0.68, 0.80)):
            cover = F.avg_pool2d(soft, cell)
            keep = cover > 0.25 + 0.35 * torch.rand(n, 1, 1, 1, generator=self.generator)
            keep &= torch.rand(keep.shape, generator=self.generator) > 0.1
            block = keep.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[:, 0]
            chosen = (kind >= low) & (kind < high)
            rough[chosen] = block[chosen]
        angle = 2 * math.pi * torch.rand(n, 1, 1, generator=self.generator)
        axis = torch.arange(SIZE) - SIZE / 2
        x = axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin()
        centre = (x * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
        shift = 8 * torch.rand(n, 1, 1, generator=self.generator)
        half = mask & (x > centre[:, None, None] - shift)
        chosen = (kind >= 0.80) & (kind < 0.92)
        rough[chosen] = half[chosen]
        wide = F.max_pool2d(soft, 5, 1, 2)[:, 0] > 0
        rough[kind >= 0.92] = wide[kind >= 0.92]
        lost = rough.sum((1, 2)) < MIN_PIXELS // 2
        rough[lost] = mask[lost]
        return rough


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random half of the images mirrored left-right; [B,S,S,3] in and out."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


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


def save(model: torch.nn.Module, folder: Path, card: dict[str, Any]) -> None:
    """Write the folder that `open_clip.create_model("local-dir:...")` loads, weights as float16.

    The image tower's positions stay float32: open_clip resizes them for other input sizes, which
    PyTorch cannot do in float16 on a CPU.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    for name in weights.keys() & {"visual.positional_embedding"}:
        weights[name] = model.state_dict()[name].clone()
    part = folder / "weights.part"
    save_file(weights, part, metadata={"format": "pt"})
    part.replace(folder / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")


def train(
    out: Path,
    seed: int,
    minutes: float,
    scenes: int,
    batch_size: int,
    lr: float,
    start_from: Path | None = None,
) -> None:
    """Train for `minutes` of wall time; writes the teacher folder `out`, also every ten minutes.

    Args:
        out: teacher folder to write.
        seed: of the weights and batches.
        minutes: budget; the learning rate falls to zero over it.
        scenes: size of the pool of web scenes.
        batch_size: images per step.
        lr: largest learning rate.
        start_from: teacher folder whose weights to start from, None for random ones.
    """
    import open_clip
    from safetensors.torch import load_file

    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out)
    MODEL_CFG["text_cfg"]["vocab_size"] = len(vocabulary())
    clip = open_clip.model.CLIP(**copy.deepcopy(MODEL_CFG))
    save(clip, out, {})
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    web = render_web(scenes)
    print(f"rendered {scenes} scenes", flush=True)
    decay = [p for p in clip.parameters() if p.ndim >= 2]
    rest = [p for p in clip.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    if start_from is not None:
        state = load_file(start_from / "open_clip_model.safetensors")
        clip.load_state_dict({k: v.float() for k, v in state.items()})
    averaged = copy.deepcopy(clip).requires_grad_(False)
    start = last_save = time.monotonic()
    losses: list[float] = []
    earlier = None if start_from is None else json.loads((start_from / "card.json").read_text())
    for step, (images, captions) in enumerate(Batches(web, batch_size, seed)):
        elapsed = time.monotonic() - start
        progress = min(elapsed / (60 * minutes), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 200) * (0.01 + 0.99 * _cosine(progress))
        with torch.autocast("cpu", torch.bfloat16), plain_attention():
            image = F.normalize(clip.encode_image(normalise(images)).float(), dim=-1)
            text = encode_captions(clip, tokenizer, captions)
        loss = contrastive_loss(image, text, content_words(captions), clip.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(100))
            rate = min(0.997, (step + 1) / (step + 20))
            for mean, value in zip(averaged.parameters(), clip.parameters(), strict=True):
                mean.lerp_(value, 1 - rate)
        losses.append(loss.item())
        if step % 50 == 0:
            mean_loss, scale = np.mean(losses[-50:]), clip.logit_scale.exp().item()
            samples = len(losses) * batch_size
            print(f"{elapsed / 60:6.2f} min {samples:8d} samples", end="  ")
            print(f"loss {mean_loss:.4f}  scale {scale:.1f}", flush=True)
        if time.monotonic() - last_save > 600 or progress >= 1:
            last_save = time.monotonic()
            card: dict[str, Any] = {
                "name": "shapes-clip", "seed": seed, "minutes": round(elapsed / 60, 1),
                "samples": len(losses) * batch_size, "batch_size": batch_size,
                "scenes": scenes, "learning_rate": lr, "started_from": earlier,
                "command": "python -m c2s.demo.train_teacher --out DIR"
                f" --seed {seed} --minutes {minutes:g} --lr {lr:g}"
                + (" --start-from EARLIER" if start_from else ""),
                "versions": {
                    "torch": torch.__version__, "open_clip": open_clip.__version__,
                    "numpy": np.__version__,
                },
            }  # fmt: skip
            save(averaged, out, card)
        if progress >= 1:
            return


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--start-from", type=Path, help="teacher folder to continue from")
    arguments = parser.parse_args()
    train(**vars(arguments))

    from c2s.demo.teacher_report import report

    path = arguments.out / "card.json"
    card = json.loads(path.read_text()) | {"measured": report(arguments.out)}
    path.write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["measured"], indent=2))


if __name__ == "__main__":
    main()
