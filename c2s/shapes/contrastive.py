"""The loss of the teacher's training: CLIP's, in which captions that may both be true of an image are no negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from c2s.shapes.scenes import CLASSES, COLOURS
from c2s.shapes.words import CLASS_OF, TIED


def content_words(captions: list[str]) -> Tensor:
    """Which colours and classes each caption names: float32 [n, V].

    Words for a class count as its name does; one that is tied to a colour says more than that.
    """
    content: dict[str, tuple[int, ...]] = {word: (i,) for i, word in enumerate(COLOURS)}
    content |= {word: (len(COLOURS) + i,) for word, i in CLASS_OF.items()}
    first = len(COLOURS) + len(CLASSES)
    content |= {word: (*content[word], first + i) for i, word in enumerate(TIED)}
    bags = torch.zeros(len(captions), first + len(TIED))
    for row, caption in enumerate(captions):
        for word in caption.split():
            bags[row, list(content.get(word, ()))] = 1
    return bags


def contrastive_loss(
    image: Tensor, text: Tensor, bags: Tensor, denied: Tensor, scale: Tensor
) -> Tensor:
    """CLIP's symmetric cross-entropy with equal captions as joint positives.

    A caption whose words are a strict subset of another's is no negative: it may be true of both, unless it has a word
    that is denied.

    Args:
        image: float32 [B,D], unit norm.
        text: float32 [B,D], unit norm.
        bags: float32 [B,V], content words of the captions.
        denied: float32 [B,T], which of the last T words are known to be wrong of the images.
        scale: multiplies the cosines.
    """
    missing = bags @ (1 - bags).T  # [B,B]: words of i that j lacks
    positive = (missing == 0) & (missing.T == 0)
    wrong = denied @ bags[:, -denied.shape[1] :].T > 0
    ignored = (((missing == 0) ^ (missing.T == 0)) & ~wrong).to(image.dtype) * -1e4
    target = positive.to(image.dtype)
    logits = scale * image @ text.T + ignored
    target = target / target.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
