"""Word-level tokenizer of the Shapes CLIP, in the files that open_clip loads."""

from __future__ import annotations

import json
from pathlib import Path

from c2s.shapes.scenes import CLASSES, COLOURS
from c2s.shapes.words import SYNONYMS

CONTEXT = 24
FILLER = (
    "a", "an", "the", "of", "and", "on", "in", "photo", "image", "picture", "drawing", ".", ",",
)  # fmt: skip


def vocabulary(synonyms: bool = True) -> dict[str, int]:
    """Word -> id. [PAD] is 0 and [EOT] the largest id, where open_clip's text tower pools."""
    extra = SYNONYMS if synonyms else ()
    words = ["[PAD]", "[UNK]", "[SOT]", *FILLER, *COLOURS, *CLASSES, *extra, "[EOT]"]
    return {word: i for i, word in enumerate(words)}


def write_tokenizer(folder: Path, synonyms: bool = True) -> None:
    """Write tokenizer.json and tokenizer_config.json: word level, unknown words are [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = vocabulary(synonyms)
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
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )
