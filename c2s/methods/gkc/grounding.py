"""Grounding on captions (L_G): of all images of a batch, a caption's nouns are nearest to the regions of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c2s.methods.gkc.matching import Matches

NO_WORD = -1
"""In place of the number of a word: there is none."""


def draw_words(captions: Int[Tensor, "B C L"], dropped: float, most: int) -> Int[Tensor, "B W"]:
    """Words of one caption of each image, drawn at random; -1 in padded slots.

    Args:
        captions: numbers of words, -1 in padded slots; captions of nothing else do not count.
        dropped: probability that a word is left out.
        most: the first so many of the others count.
    """
    drawn = torch.rand(captions.shape[:2], device=captions.device)
    chosen = torch.where((captions != NO_WORD).any(-1), drawn, -1).argmax(-1)
    words = captions[torch.arange(len(captions), device=captions.device), chosen]
    kept = (words != NO_WORD) & (torch.rand(words.shape, device=words.device) >= dropped)
    first = kept.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return torch.where(kept, words, NO_WORD).gather(1, first)


def regions_of(
    embeddings: Float[Tensor, "B Q D"], matches: Matches, most: int
) -> tuple[Float[Tensor, "B R D"], Bool[Tensor, "B R"]]:
    """Embeddings of the first so many matched queries of each image, 0 in padded slots; and which slots are none.

    Args:
        embeddings: of all queries.
        matches: image by image.
        most: R.
    """
    place = torch.arange(len(matches.image), device=embeddings.device)
    place = place - torch.searchsorted(matches.image, matches.image)
    image, query, place = (v[place < most] for v in (matches.image, matches.query, place))
    regions = embeddings.new_zeros(len(embeddings), most, embeddings.shape[-1])
    there = torch.zeros(regions.shape[:2], dtype=torch.bool, device=embeddings.device)
    there[image, place] = True
    return regions.index_put((image, place), embeddings[image, query]), there


def ground(
    words: Float[Tensor, "B W D"],
    said: Bool[Tensor, "B W"],
    regions: Float[Tensor, "B R D"],
    shown: Bool[Tensor, "B R"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """How well captions and images of a batch find each other.

    With the cosine k of a word and a region, their distance is tau (1 - k). A caption is as far from an image as its
    words are on average from the regions that each attends to (softmax of tau k over the regions), or as the regions
    are from the words; the loss is the mean of the cross-entropies of both distances, each over the images of a caption
    and over the captions of an image. Images without a word or a region are left out; 0 of fewer than two.

    Args:
        words: embeddings of the words of a caption of each image.
        said: which of them there are.
        regions: embeddings of the regions of each image.
        shown: which of them there are.
        scale: tau.
    """
    both = said.any(1) & shown.any(1)
    if int(both.sum()) < 2:
        return regions.sum() * 0
    said, shown = said[both, None], shown[None, both]  # [c, 1, W], [1, i, R]
    w, r = (F.normalize(v[both].float(), dim=-1) for v in (words, regions))
    near = scale * torch.einsum("cwd,ird->ciwr", w, r)
    far = scale - near
    to_regions = near.masked_fill(~shown[:, :, None], -torch.inf).softmax(-1)
    to_words = near.masked_fill(~said[..., None], -torch.inf).softmax(-2)
    own = torch.arange(len(w), device=w.device)
    terms = []
    for each, there in (((to_regions * far).sum(-1), said), ((to_words * far).sum(-2), shown)):
        distances = (each * there).sum(-1) / there.sum(-1)  # of caption c and image i
        terms += [F.cross_entropy(-d, own) for d in (distances, distances.T)]
    return torch.stack(terms).mean()
