"""The loss of the teacher's training against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from c2s.shapes.contrastive import content_words, contrastive_loss
from c2s.shapes.scenes import CLASSES, COLOURS
from c2s.shapes.words import TIED


def _loss_by_hand(
    image: Tensor, text: Tensor, captions: list[str], wrong: list[set[str]], scale: float
) -> float:
    same = {**dict.fromkeys(COLOURS), **dict.fromkeys(CLASSES), "disc": {"circle"}}
    same |= {"asterisk": {"star"}, "starfish": {"star", "starfish"}}
    words = [set[str]().union(*(same[w] or {w} for w in c.split() if w in same)) for c in captions]
    n, total = len(captions), 0.0
    for queries, keys in ((image, text), (text, image)):
        for i in range(n):
            pairs = [(i, j) if queries is image else (j, i) for j in range(n)]  # image, text
            kept = [
                j
                for j, (seen, said) in enumerate(pairs)
                if not (words[i] < words[j] or words[j] < words[i]) or words[said] & wrong[seen]
            ]
            logits = {j: scale * float(queries[i] @ keys[j]) for j in kept}
            log_sum = math.log(sum(math.exp(v) for v in logits.values()))
            positives = [j for j in kept if words[j] == words[i]]
            total -= sum(logits[j] - log_sum for j in positives) / len(positives)
    return total / (2 * n)


def test_loss_against_loops() -> None:
    captions = [
        "a photo of a star", "a drawing of a star", "a red star on dots", "a circle",
        "a photo of a red star", "dots", "an arrow and a circle on waves",
        "a disc", "an asterisk", "a starfish",
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    image, text = (
        torch.nn.functional.normalize(torch.randn(len(captions), 8, generator=generator), dim=1)
        for _ in range(2)
    )
    wrong = [set[str]() for _ in captions]
    wrong[0] = {"starfish", "moon"}
    wrong[6] = {"sun"}
    denied = torch.tensor([[float(word in each) for word in TIED] for each in wrong])
    got = contrastive_loss(image, text, content_words(captions), denied, torch.tensor(7.0))
    expected = _loss_by_hand(image, text, captions, wrong, 7.0)
    assert got.item() == pytest.approx(expected, rel=1e-5)
    assert expected != _loss_by_hand(image, text, captions, [set()] * len(captions), 7.0)
