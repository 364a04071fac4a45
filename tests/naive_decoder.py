"""The decoder of CLIP-RC by loops: token by token and head by head."""

from __future__ import annotations

import torch


def naive_layer(layer, own, other):
    """Cross-attention, head by head and token by token."""
    a, dim = layer.attention, own.shape[-1]
    heads, wide = a.heads, dim // a.heads
    wq, wk, wv = (part.weight for part in (a.q, a.k, a.v))
    bq, bk, bv = (part.bias for part in (a.q, a.k, a.v))
    out = []
    for i in range(len(own)):
        joined = []
        for h in range(heads):
            part = slice(h * wide, (h + 1) * wide)
            q = wq[part] @ own[i] + bq[part]
            scores = torch.stack([q @ (wk[part] @ o + bk[part]) for o in other]) / wide**0.5
            share = scores.exp() / scores.exp().sum()
            joined.append(
                sum(s * (wv[part] @ o + bv[part]) for s, o in zip(share, other, strict=True))
            )
        seen = a.out.weight @ torch.cat(joined) + a.out.bias
        x = naive_norm(layer.norm1, own[i] + seen)
        hidden = (layer.linear1.weight @ x + layer.linear1.bias).clamp(min=0)
        out.append(naive_norm(layer.norm2, x + layer.linear2.weight @ hidden + layer.linear2.bias))
    return torch.stack(out)


def naive_norm(norm, x):
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def naive_decoder(decoder, queries, patches):
    for to_queries, to_patches in zip(decoder.query_layers, decoder.patch_layers, strict=True):
        before = queries
        queries = naive_layer(to_queries, queries, patches)
        patches = naive_layer(to_patches, patches, before)
    return queries, patches
