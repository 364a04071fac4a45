"""Small models of transformers with tokenizers of their own, as folders."""

from __future__ import annotations

import io
import json
import string
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    GemmaTokenizer,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    SiglipTokenizer,
)

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
}
TEXT = {**VISION, "num_hidden_layers": 1, "max_position_embeddings": 16, "vocab_size": 300}
SENTENCES = ["a photo of a cat", "Photo of the sky.", "There is a thing in the scene", "dog"]
KINDS = ("clip", "siglip", "siglip2")


def model(kind: str) -> torch.nn.Module:
    """One of random weights, the same each time."""
    torch.manual_seed(3)
    text = {k: v for k, v in TEXT.items() if k != "patch_size"}
    if kind == "clip":
        vision = {**VISION, "image_size": 32}
        ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        made = CLIPModel(
            CLIPConfig(vision_config=vision, text_config={**text, **ends}, projection_dim=24)
        )
    elif kind == "siglip":
        vision = {**VISION, "image_size": 32}
        made = SiglipModel(
            SiglipConfig(vision_config=vision, text_config={**text, "projection_size": 32})
        )
    else:
        vision = {**VISION, "num_patches": 16}
        made = Siglip2Model(
            Siglip2Config(vision_config=vision, text_config={**text, "projection_size": 32})
        )
    with torch.no_grad():  # as they are made, whole branches are zero or alike
        for weights in made.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return made.eval()


def folder(kind: str, path: Path) -> str:
    """Write one with its tokenizer and preprocessing; returns its name as a teacher."""
    path.mkdir(exist_ok=True)
    model(kind).save_pretrained(path)
    letters = list(string.ascii_letters + string.punctuation + string.digits)
    if kind == "clip":
        names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
        tokenizer = CLIPTokenizer(vocab={n: i for i, n in enumerate(names)}, merges=[])
    elif kind == "siglip":
        import sentencepiece

        made = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*SENTENCES, string.ascii_letters] * 4),
            model_writer=made,
            vocab_size=80,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (path / "spiece.model").write_bytes(made.getvalue())
        tokenizer = SiglipTokenizer(str(path / "spiece.model"))
    else:  # as the files of SigLIP 2 have it, whose letters are not made small
        names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *letters]
        tokenizer = GemmaTokenizer(
            vocab={n: i for i, n in enumerate(names)}, merges=[], padding_side="right"
        )
    tokenizer.save_pretrained(path)
    ways = {
        "clip": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        "siglip": {"size": {"height": 32, "width": 32}, "resample": 3},
        "siglip2": {"patch_size": 8, "max_num_patches": 16},
    }
    (path / "preprocessor_config.json").write_text(json.dumps(ways[kind]))
    return f"local-dir:{path}"
