"""Pretrain the encoder of the demo's student on the seen classes alone.

    python -m c2s.students.pretrain_shapes_net --out c2s/shapes/shapes-net --seed 0

The paper's students start from an image classifier. This is its counterpart: scenes are drawn with
seen classes only, so that no pixel of an unseen class is ever shown, and the encoder learns which
of those classes are present (image-level, multi-label). The scenes come from the "web" stream, on
which no student is trained or scored.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from c2s.shapes.scenes import CLASSES, MIN_AREA, SEEN, SIZE, render
from c2s.shapes.web import mirror
from c2s.students.base import IMAGENET_MEAN, IMAGENET_STD
from c2s.students.shapes_net import WIDTHS, ShapesEncoder
from c2s.tensor_file import write_whole

SEEN_IDS = [CLASSES.index(name) for name in SEEN]


def presence(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Which seen classes cover MIN_AREA of a scene: uint8 [64, 64] -> float32 [seen classes]."""
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES))[SEEN_IDS]
    return (counts >= MIN_AREA * SIZE * SIZE).astype(np.float32)


def _render_range(bounds: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    scenes = [render("web", i, SEEN) for i in range(*bounds)]
    return np.stack([s.image for s in scenes]), np.stack([presence(s.labels) for s in scenes])


def render_seen(start: int, count: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 64, 64, 3] and presence float32 [n, seen classes] of seen-only scenes."""
    bounds = [(a, min(a + 1000, start + count)) for a in range(start, start + count, 1000)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_render_range, bounds))
    images = torch.cat([torch.from_numpy(p[0]) for p in parts])
    return images, torch.cat([torch.from_numpy(p[1]) for p in parts])


def normalise(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], ImageNet mean and deviation."""
    x = (images.float() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return rearrange(x, "b h w c -> b c h w").contiguous(memory_format=torch.channels_last)


class Classifier(nn.Module):
    """Encoder, mean over positions, linear: images [B, 3, H, W] -> logits [B, seen classes]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ShapesEncoder()
        self.head = nn.Linear(2 * WIDTHS[-1], len(SEEN))

    def forward(self, images: Tensor) -> Tensor:
        x = self.encoder(images)[-1]
        logits: Tensor = self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
        return logits


@torch.inference_mode()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Per cent of right decisions, mean over present and absent so that rarity does not count."""
    model.eval()
    guess = torch.cat([model(normalise(part)) for part in torch.split(images, 250)]) > 0
    model.train()
    present = labels > 0
    return 50 * float(guess[present].float().mean() + (~guess[~present]).float().mean())


def save(encoder: nn.Module, out: Path) -> None:
    """Write encoder.safetensors, in float16.

    Raises:
        OSError: it cannot be written.
    """
    state = encoder.state_dict().items()
    weights = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state}
    write_whole(
        out / "encoder.safetensors",
        lambda part: save_file(weights, part, metadata={"format": "pt"}),
    )


def pretrain(out: Path, seed: int, samples: int, scenes: int, batch_size: int, lr: float) -> None:
    """Train on `samples` images; writes encoder.safetensors (float16) and card.json.

    Raises:
        OSError: they cannot be written, which is tried before.
    """
    out.mkdir(parents=True, exist_ok=True)
    save(ShapesEncoder(), out)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = render_seen(0, scenes)
    held_images, held_labels = render_seen(scenes, 1000)
    model = Classifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02)
    steps, start = samples // batch_size, time.monotonic()
    for step in range(steps):
        decay = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * decay
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        logits = model(normalise(mirror(images[rows], generator)))
        loss = F.binary_cross_entropy_with_logits(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % 100 == 0:
            minutes = (time.monotonic() - start) / 60
            print(f"{minutes:6.2f} min  step {step + 1}  loss {loss.item():.4f}", flush=True)
    card: dict[str, Any] = {
        "name": "shapes-net encoder", "classes": list(SEEN), "seed": seed,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "samples": steps * batch_size, "scenes": scenes, "batch_size": batch_size,
        "learning_rate": lr,
        "presence_accuracy": round(accuracy(model, held_images, held_labels), 2),
        "command": "python -m c2s.students.pretrain_shapes_net --out DIR"
        f" --seed {seed} --samples {samples}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }  # fmt: skip
    save(model.encoder, out)
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=240_000)
    parser.add_argument("--scenes", type=int, default=24_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    try:
        pretrain(**vars(parser.parse_args()))
    except OSError as error:
        parser.exit(1, f"error: the encoder cannot be written: {error}.\n")


if __name__ == "__main__":
    main()
