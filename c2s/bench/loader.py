"""Batches from a cache against the same records in LitData, MosaicML Streaming and WebDataset.

`checks_ratio` is what remains of the rate when every file is digested before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from unittest.mock import patch

from c2s.bench.baselines import Reader, baselines, pack, unpack
from c2s.bench.inputs import cache_of
from c2s.bench.measure import Side, alternate, result
from c2s.methods.base import MethodConfig
from c2s.methods.examples import Examples, cut_view
from c2s.methods.registry import method_config
from c2s.training.sampler import BatchSequence
from c2s.training.stream import BatchStream, block_sizes
from c2s_cache import Cache, MissingExtra
from c2s_cache.proof import Proof
from c2s_cache.receipt import FileRecord
from c2s_pipeline.memory import peak_memory


def bench_loader(
    cache: Path | None = None,
    images: int = 1000,
    batch_size: int = 16,
    rounds: int = 5,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Samples per second of one loader process, an epoch per round, opening the data set included.

    Every side does the same to a record: decode the image, cut image and labels to the view, rebuild the
    pseudo mask, stack batches. All shuffle. The others hold label maps uncompressed. "unchecked" is ours
    without proof of the files, which nothing else than this can have.

    Args:
        cache: whose samples; default a temporary one of Shapes scenes.
        images: scenes of that one; of a named cache, the number of samples that is read, at most.
        batch_size: samples per batch.
        rounds: timed epochs of every side.
        advance: called after every round.
    """
    with cache_of(cache, images) as opened, TemporaryDirectory(prefix="c2s-bench-") as folder:
        sizes = block_sizes(opened)
        count = min(images, sum(sizes)) // batch_size * batch_size
        readers, absent = baselines(lambda: _records(opened, count), Path(folder))
        if not readers:
            raise MissingExtra(
                "there is nothing to compare with: none of the other loaders is installed.",
                "Install one with: pip install 'c2s[bench]'",
            )
        ours = _ours(opened, sizes, count, batch_size)
        sides = {"c2s": ours, "unchecked": _believing(ours)}
        sides |= {
            name: _theirs(opened, reader, batch_size, count) for name, reader in readers.items()
        }
        rates = alternate(sides, rounds, advance=advance)
        before = peak_memory()
        for _ in range(rounds):
            sides["c2s"]()
        best = max(readers, key=lambda name: rates[name].median)
        what = {
            "cache": str(cache or "shapes"),
            "samples per round": count,
            "view": f"{opened.manifest.view_size} px",
            "batch": batch_size,
            "processes": 1,
            "absent": absent,
            "memory growth over as many more epochs, MiB": round(
                (peak_memory() - before) / 2**20, 1
            ),
        }
        checks = {"checks_ratio": rates["c2s"].median / rates["unchecked"].median}
        return result("loader", rates, "c2s", best, "samples/s", what, **checks)


def _records(cache: Cache, count: int) -> Iterator[bytes]:
    blocks = (cache.read_block(b, _examples(cache).paths) for b in range(cache.blocks))
    samples = (block.sample(i) for block in blocks for i in range(len(block)))
    return (pack(sample) for sample in islice(samples, count))


def _examples(cache: Cache) -> Examples[Any]:
    return cast(MethodConfig, method_config({})).examples(cache.manifest)


def _ours(cache: Cache, sizes: tuple[int, ...], count: int, batch_size: int) -> Side:
    def run() -> int:
        sequence = BatchSequence(sizes, batch_size)
        size = cache.manifest.view_size
        stop = count // batch_size
        stream = BatchStream(cache.path, sequence, _examples(cache), 0, stop, size, jitter=False)
        return sum(len(batch) for batch in stream)

    return run


def _believing(side: Side) -> Side:
    """The same without looking at files: what they are is taken from their receipts unproven."""

    class Believing(Proof):
        def check(self, records: Mapping[str, FileRecord], what: str) -> list[int]:
            return []

        def stamps(self, records: Mapping[str, FileRecord], what: str) -> list[int]:
            return []

    def run() -> int:
        with patch("c2s_cache.arrays.Proof", Believing):
            return side()

    return run


def _theirs(cache: Cache, reader: Reader, batch_size: int, count: int) -> Side:
    examples, size = _examples(cache), cache.manifest.view_size

    def run() -> int:
        views = (cut_view(unpack(record), size) for record in reader())
        made = (examples.example(view, view.sample.arrays) for view in views)
        parts = iter(lambda: list(islice(made, batch_size)), [])
        done = sum(len(examples.collate(part)) for part in parts)
        if done != count:
            raise AssertionError(f"{done} samples were read where {count} were written")
        return done

    return run
