"""A batch of two images with segments, what seven queries say of them, and the method GKC that learns from both."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from c2s.methods.base import Facts
from c2s.methods.gkc import GKCBatch, GKCConfig
from c2s.methods.gkc.examples import NONE
from c2s.students.query import Queries, QueryStudent
from c2s.vocabulary import Vocabulary, unit_norm

B, Q, N, S, D, C, SETS = 2, 7, 3, 32, 8, 4, 2
PLAIN = {"distillation": "none", "synonyms": {"how": "off"}, "region_dropout": 0.0}
SEEN = (0, 2, 3, 5)  # ids of the C seen classes


class Stub(QueryStudent):
    backbone = torch.nn.Identity()

    def decode(self, images):
        raise NotImplementedError


def facts(counts=(1, 2, 3, 1)):
    rng = np.random.default_rng(0)
    rows = unit_norm(rng.normal(size=(sum(counts), D)))
    first = np.cumsum((0, *counts[:-1]))
    names = tuple("abcd")
    seen = Vocabulary(names, rows[first], ids=SEEN)
    words = tuple(tuple(f"{n}{i}" for i in range(k)) for n, k in zip(names, counts, strict=True))
    every = Vocabulary(names, rows, names=words, ids=SEEN)
    numbered = np.concatenate([rows, unit_norm(rng.normal(size=(3, D)))])  # and three nouns
    return Facts(seen, 6, None, every, 10.0, Stub(D, 16, SETS), numbered)


def build(**settings):
    torch.manual_seed(3)
    return GKCConfig(**settings).build(facts())


def queries():
    torch.manual_seed(1)
    parts = {"masks": (B, Q, 8, 8), "shared": (B, Q, 16), "embeddings": (B, Q, D)}
    made = {n: tuple(2 * torch.randn(*s) for _ in range(SETS)) for n, s in parts.items()}
    return Queries(**made, nothing=torch.randn(D), scale=torch.tensor(5.0))


def batch(classes=((0, 5, NONE), (3, 2, 0))):
    torch.manual_seed(2)
    segments = torch.full((B, S, S), NONE)
    segments[:, 2:14, 3:20], segments[:, 16:30, 4:12] = 0, 1
    segments[1, 18:29, 16:30] = 2
    classes = torch.tensor(classes)
    for i in range(B):
        segments[i][(classes[i] == NONE)[segments[i].clamp(min=0)]] = NONE
    image = torch.zeros(B, 3, S, S, dtype=torch.uint8)
    return GKCBatch(image=image, segments=segments, classes=classes, tokens=torch.randn(B, N, D))


def masks_of(data):
    return F.one_hot(data.segments + 1, N + 1)[..., 1:].permute(0, 3, 1, 2).float()
