"""The paper's ablations, Tables IV to XI (COCO-Stuff, SegFormer-B4, 40 k iterations), as grids.

Rows of the full method change nothing, so that they are one run for all tables. Table XII compares
ways of making masks that are other papers' (mask proposals, panoptic cut) and has no grid.
"""

from __future__ import annotations

from typing import Any

from c2s.methods.grid import Grid, PaperRun, Row

PAPER = PaperRun(dataset="coco-stuff", student="segformer-b4", iterations=40_000, batch_size=16)
FULL = (42.3, 41.9, 42.7)
OFF = {"global_distillation": False, "local_distillation": False}


def _row(name: str, paper: tuple[float, float, float] = FULL, **method: Any) -> Row:
    return Row(name=name, paper=paper, train={"method": method} if method else {})


TABLES: dict[str, Grid] = {
    "IV": Grid(
        name="table-IV",
        paper=PAPER,
        title="Table IV: proposed modules",
        rows=(
            _row("baseline", (11.2, 41.3, 6.4), **OFF, latent_embedding=False),
            _row("latent", (20.2, 41.4, 13.4), **OFF),
            _row("distillation", (38.8, 41.2, 36.6), latent_embedding=False),
            _row("both"),
        ),
    ),
    "V": Grid(
        name="table-V",
        paper=PAPER,
        title="Table V: global and local distillation, all with latent embeddings",
        rows=(
            _row("neither", (20.2, 41.4, 13.4), **OFF),
            _row("local", (36.3, 41.9, 32.1), global_distillation=False),
            _row("global", (40.8, 41.6, 40.1), local_distillation=False),
            _row("both"),
        ),
    ),
    "VI": Grid(
        name="table-VI",
        paper=PAPER,
        title="Table VI: distillations",
        rows=(
            _row("cosine", (37.6, 41.4, 34.4), distillation="cosine"),
            _row("l2", (17.8, 18.4, 17.3), distillation="l2"),
            _row("residual (Froster)", (37.2, 41.7, 33.6), distillation="residual"),
            _row("infonce"),
        ),
    ),
    "VII": Grid(
        name="table-VII",
        paper=PAPER,
        title="Table VII: CLS tokens that calibrate the latent embeddings",
        rows=(
            _row("none (no latent embeddings)", (38.8, 41.2, 36.6), latent_embedding=False),
            _row("local", (41.9, 41.3, 42.6), calibration="local"),
            _row("global", (41.7, 41.4, 42.1), calibration="global"),
            _row("both"),
        ),
        note='The paper takes "without latent embedding as the baseline", which is a row of Table IV.',
    ),
    "VIII": Grid(
        name="table-VIII",
        paper=PAPER,
        title="Table VIII: generators of latent embeddings",
        rows=(
            _row("prototypes", (41.0, 41.5, 40.5), generator="prototype"),
            _row("prototypes, MLP", (41.5, 41.3, 41.8), generator="prototype-mlp"),
            _row("CLS tokens", (40.2, 41.5, 38.9), generator="cls"),
            _row("CLS tokens, MLP", (40.9, 41.5, 40.3), generator="cls-mlp"),
            _row("both, transformer"),
        ),
    ),
    "IX": Grid(
        name="table-IX",
        paper=PAPER,
        title="Table IX: size of the token bank",
        rows=(
            _row("0", (41.0, 41.5, 40.4), bank_size=0),
            _row("2", (41.5, 41.7, 41.4), bank_size=2),
            _row("6", FULL, bank_size=6),
            _row("14", (40.9, 41.3, 40.5), bank_size=14),
        ),
        note="Size 0 is read as no bank: the negatives are the other images of the batch. With none at "
        "all Eq. 4 is constant and the row would be that of local distillation alone, 36.3.",
    ),
    "X": Grid(
        name="table-X",
        paper=PAPER,
        title="Table X: windows of the seeds",
        rows=(
            Row(name="3", paper=(41.2, 41.3, 41.1), build={"masks": {"windows": [3]}}),
            Row(name="7", paper=(41.8, 41.3, 42.3), build={"masks": {"windows": [7]}}),
            Row(name="3, 7", paper=FULL, build={"masks": {"windows": [3, 7]}}),
        ),
    ),
    "XI": Grid(
        name="table-XI",
        paper=PAPER,
        title="Table XI: aggregation in global distillation",
        rows=(
            _row("mean", (38.4, 41.1, 35.9), aggregation="mean"),
            _row("max", (42.0, 41.1, 42.9), aggregation="max"),
            _row("attention"),
        ),
    ),
}
