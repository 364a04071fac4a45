"""Pretrained encoders: files read without unpickling objects, keys renamed by declarative maps.

A checkpoint names its parameters in the layout of the code that wrote it. A `Layout` says, for one
such code, what each of its keys is called in a student's encoder; keys that no rule matches
(classifiers, heads, counters) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from c2s_cache.errors import ConfigError
from c2s_cache.hub import hub

State = dict[str, Tensor]
WRAPPERS = ("state_dict", "model")
"""Entries of a .pth file that hold the tensors, if it holds more."""
PREFIX = r"(?:(?:module|model|backbone|segformer|vit)\.)*"
"""In front of an encoder's keys in checkpoints of whole models; part of no layout's own names."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Layout:
    """How one code base names the parameters of an encoder.

    Attributes:
        name: of the layout, for messages.
        rules: pairs of a pattern and what to call the tensor, tried in order; the first that matches
            a whole key counts. Names may use the pattern's groups (`\\1`). Several names: the tensor
            is cut into as many equal parts along its first axis. A name that ends in `@n` is the n-th
            of the parts that are joined along the first axis.
    """

    name: str
    rules: tuple[tuple[str, str | tuple[str, ...]], ...]

    def rename(self, state: Mapping[str, Tensor]) -> State:
        """Tensors under the names that the rules give them; the others are left out."""
        compiled = [(re.compile(PREFIX + pattern), names) for pattern, names in self.rules]
        out: State = {}
        parts: dict[str, State] = {}
        for key, tensor in state.items():
            rule = next(((m, n) for p, n in compiled if (m := p.fullmatch(key))), None)
            if rule is None:
                continue
            match, names = rule
            names = (names,) if isinstance(names, str) else names
            cuts = (tensor,) if len(names) == 1 else tensor.tensor_split(len(names))
            for name, part in zip(names, cuts, strict=True):
                target, _, order = match.expand(name).partition("@")
                if order:
                    parts.setdefault(target, {})[order] = part
                else:
                    out[target] = part
        joined = {name: torch.cat([p[n] for n in sorted(p)]) for name, p in parts.items()}
        return out | joined


def own_layout(*first: str) -> Layout:
    """The student's own names, as run folders store them: keys that begin with one of `first`."""
    return Layout("c2s", ((rf"((?:{'|'.join(first)})(?:\..+)?)", r"\1"),))


def load_encoder(
    encoder: nn.Module,
    weights: str | Path,
    layouts: Sequence[Layout],
    adapt: Callable[[State], State] | None = None,
) -> None:
    """Fill an encoder with pretrained weights; whatever else the checkpoint holds is left out.

    Args:
        encoder: a student's `backbone`.
        weights: as for `read_checkpoint`.
        layouts: those that the encoder knows; the one that matches most keys is taken.
        adapt: last changes to the renamed tensors, such as resampled position embeddings.

    Raises:
        ConfigError: nothing readable there, no known layout, or parameters are missing or of another
            shape; the first of them is named.
    """
    found = read_checkpoint(weights)
    renamed = [(layout.rename(found), layout.name) for layout in layouts]
    state, layout = max(renamed, key=lambda pair: len(pair[0]))
    if not state:
        raise ConfigError(
            f"Weights {weights} have none of the layouts known for this encoder "
            f"({', '.join(layout.name for layout in layouts)}); their first key is "
            f"{next(iter(found), 'missing')!r}.",
            "Choose the weights of the same architecture.",
        )
    state = state if adapt is None else adapt(state)
    own = encoder.state_dict()
    # Old checkpoints lack the counters of batch norm, which nothing depends on here.
    needed = [k for k in own if k in state or not k.endswith("num_batches_tracked")]
    wrong = [k for k in needed if k not in state or not _same_shape(state[k], own[k])]
    if wrong:
        got = tuple(state[wrong[0]].shape) if wrong[0] in state else "nothing"
        raise ConfigError(
            f"Weights {weights} ({layout} layout) do not fit the encoder: {len(wrong)} of "
            f"{len(needed)} parameters differ, first {wrong[0]} (expected {tuple(own[wrong[0]].shape)}, got {got}).",
            "Choose the weights of the same architecture and size.",
        )
    encoder.load_state_dict(own | {k: state[k].reshape(own[k].shape) for k in needed})


def read_checkpoint(weights: str | Path) -> State:
    """Tensors of a checkpoint, on the CPU, under their own names.

    Args:
        weights: a safetensors file; a .pth, .pt or .bin file of plain tensors, perhaps under
            "state_dict" or "model"; a folder with model.safetensors or pytorch_model.bin; or the id
            of such a model on the Hugging Face hub ("nvidia/mit-b4").

    Raises:
        ConfigError: nothing there, unreadable, or a pickle of anything but tensors and plain values.
    """
    path = Path(weights)
    if path.is_dir():
        path = next((path / n for n in HUB_FILES if (path / n).is_file()), path / HUB_FILES[0])
    elif not path.is_file() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(weights)):
        path = _download(str(weights))
    if not path.is_file():
        raise ConfigError(
            f"There are no encoder weights at {path}.",
            "Give a file, a folder with model.safetensors, a hub id, or --weights random.",
        )
    with path.open("rb") as file:
        json_header = file.read(9)[8:] == b"{"  # after its length of eight bytes
    safetensors = json_header or path.suffix == ".safetensors"
    return _read_safetensors(path) if safetensors else _read_pickle(path)


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ConfigError(f"The weights {path} are damaged ({error}).") from error


def _read_pickle(path: Path) -> State:
    """The tensors of a .pth file; torch's restricted unpickler makes no other objects."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no pickle fails in any way: an empty stack, a wrong type
        raise ConfigError(
            f"The weights {path} are neither safetensors nor a checkpoint of plain tensors.",
            "Convert them to safetensors where they can be trusted; c2s unpickles no objects.",
        ) from error
    entries = content if isinstance(content, Mapping) else {}
    tensors = next((entries[w] for w in WRAPPERS if isinstance(entries.get(w), Mapping)), entries)
    return {str(k): v for k, v in tensors.items() if isinstance(v, Tensor)}


def _download(model: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason = f"it has neither {' nor '.join(HUB_FILES)}"
    for name in HUB_FILES:
        try:
            with hub():
                return Path(hf_hub_download(model, name))
        except (OSError, ValueError, EntryNotFoundError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(
                error, LocalEntryNotFoundError
            ):
                continue  # the model is there, this file is not
            reason = str(error).strip().splitlines()[0]
            break
    raise ConfigError(
        f"There is no file {model}, and the Hugging Face hub gives no such weights: {reason}",
        "Give a file, a folder with model.safetensors, a hub id, or --weights random.",
    )


def _same_shape(a: Tensor, b: Tensor) -> bool:
    """Whether shapes agree up to trailing ones: a linear layer is a 1 x 1 convolution."""
    rank = max(a.ndim, b.ndim)
    return (*a.shape, *(1,) * (rank - a.ndim)) == (*b.shape, *(1,) * (rank - b.ndim))
