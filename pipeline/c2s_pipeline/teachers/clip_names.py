"""Invariant: what a teacher's name and weights mean is open_clip's registry's to say, and said in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from c2s_cache import C2SError, ConfigError
from c2s_pipeline.extras import require

Activation = Literal["gelu", "quick_gelu"]
FOLDER = "local-dir:"
HUB = "hf-hub:"
TRANSFORMERS = "hf:"
"""Repositories of the Hub in the layouts of open_clip and of transformers."""
DEFAULT_PRETRAINED = "openai"
RANDOM = "random"
WORDS = '"*.json" "*.txt" "*.model"'
"""Files of a text tower of the hub that are not its weights: its configuration, and its tokenizer's."""
QUICK = "-quickgelu"
"""What open_clip's names of the same architecture with the other activation end in."""


def own_weights(name: str) -> bool:
    """Whether a teacher of that name brings its own weights: a folder, or a repository of the hub."""
    return name.startswith((FOLDER, HUB, TRANSFORMERS))


def default_pretrained(name: str) -> str | None:
    """Weights used when none are named: OpenAI's, as in the paper; a folder brings its own."""
    return None if own_weights(name) else DEFAULT_PRETRAINED


def known_name(name: str) -> str:
    """How caches and runs know a teacher of that name: a folder by its last part, wherever it lies."""
    return f"{FOLDER}{Path(name.removeprefix(FOLDER)).name}" if name.startswith(FOLDER) else name


def known_weights(pretrained: str | None) -> str | None:
    """How caches and runs know weights: a file by its name; its digest, not its folder, identifies it."""
    if pretrained is not None and Path(pretrained).is_file():
        return Path(pretrained).name
    return pretrained


def check_names(name: str, pretrained: str | None) -> None:
    """Refuse names that open_clip does not know, before anything is loaded.

    Raises:
        ConfigError: there is no such model, folder, weight tag or file, or a folder is given weights.
    """
    open_clip = require("open_clip", "build")
    if own_weights(name):
        folder = Path(name.removeprefix(FOLDER))
        if name.startswith(FOLDER) and not (folder / "open_clip_config.json").is_file():
            raise ConfigError(
                f"teacher {name}: neither open_clip_config.json nor config.json is in {folder}."
            )
        return
    if name not in open_clip.list_models():
        near = [m for m in open_clip.list_models() if m.lower().startswith(name.lower()[:6])]
        raise ConfigError(
            f"unknown teacher {name!r}; open_clip has no model of that name.",
            f"Similar names: {', '.join(near[:6]) or 'none'}.",
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    known = pretrained in (None, RANDOM) or bool(open_clip.get_pretrained_cfg(name, pretrained))
    if not known and not Path(str(pretrained)).is_file():
        raise ConfigError(
            f"--pretrained {pretrained!r} is neither a file nor a weight tag of {name}.",
            f"Tags: {', '.join(tags) or 'none'}.",
        )


def weights_file(name: str, pretrained: str | None) -> Path | None:
    """The file that holds the weights, where they are not a tag's: a checkpoint, or a folder's own."""
    open_clip = require("open_clip", "build")
    if name.startswith(FOLDER):
        found = open_clip.factory._find_checkpoint_in_dir(Path(name.removeprefix(FOLDER)))
        return None if found is None else Path(found)
    if own_weights(name) or pretrained in (None, RANDOM):
        return None
    return None if open_clip.get_pretrained_cfg(name, pretrained) else Path(str(pretrained))


def named_activation(name: str, pretrained: str | None) -> Activation:
    """The activation that a name and its weights imply: by the tag, or else the model's configuration.

    Some tags were trained with QuickGELU under a model name whose configuration says GELU. A folder
    implies nothing by its name; GELU stands for it.
    """
    open_clip = require("open_clip", "build")
    if own_weights(name):
        return "gelu"
    tag = open_clip.get_pretrained_cfg(name, pretrained or "") or {}
    config = open_clip.get_model_config(name) or {}
    return "quick_gelu" if tag.get("quick_gelu") or config.get("quick_gelu") else "gelu"


def other_activation(name: str) -> str | None:
    """The name of the same architecture with the other activation, if open_clip has one."""
    other = name.removesuffix(QUICK) if name.endswith(QUICK) else f"{name}{QUICK}"
    return other if other in require("open_clip", "build").list_models() else None


def fetch(*wanted: tuple[str, str]) -> str:
    """How to have files of repositories of the hub once, for machines without a network.

    Args:
        wanted: repository, and the patterns of its files.
    """
    from huggingface_hub import constants

    commands = "; ".join(
        f"hf download {repository} --include {files}" for repository, files in wanted
    )
    folders = " and ".join(f"models--{name.replace('/', '--')}" for name, _ in wanted)
    return (
        f"Where there is a network, run: {commands}; then copy {folders} from its cache "
        f"(~/.cache/huggingface/hub) into {constants.HF_HUB_CACHE} (or where HF_HUB_CACHE says). No network is "
        "needed from then on."
    )


def no_answer() -> str:
    """Why the hub was not asked, or that it does not answer."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE forbids to fetch"
    return f"{constants.ENDPOINT} does not answer within two seconds"


def not_here(name: str, pretrained: str | None) -> C2SError:
    """That weights are not on this machine and the hub does not answer, and how to have them once."""
    open_clip = require("open_clip", "build")
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(name, pretrained or "") or {}
    repository = name.removeprefix(HUB) if name.startswith(HUB) else tag.get("hf_hub", "")
    repository = "/".join(repository.split("/")[:2]).rstrip("/")
    what = f"its weights {pretrained!r} are" if pretrained else "it is"
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {}) if tag else {}
    towers = {str(text.get(key) or "") for key in ("hf_model_name", "hf_tokenizer_name")} - {""}
    hint = fetch((repository, '"open_clip*"'), *((tower, WORDS) for tower in sorted(towers)))
    if tag:
        quick = tag.get("quick_gelu") and named_activation(name, None) == "gelu"
        file_name = (other_activation(name) if quick else None) or name
        hint += f" Or name the file: --teacher {file_name} --pretrained open_clip_model.safetensors"
        archive = str(tag.get("url", ""))
        if "openaipublic" in archive:
            hint += f", or OpenAI's own archive, {archive}: --teacher {name} --pretrained {Path(archive).name}"
        hint += "."
    return C2SError(f"teacher {name}: {what} not on this machine, and {no_answer()}.", hint)
