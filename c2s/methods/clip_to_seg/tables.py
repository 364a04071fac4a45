"""The paper's ablations, Tables IV to XI (COCO-Stuff, SegFormer-B4, 40 k iterations), as grids.

Rows of the full method change nothing, so that they are one run for all tables. Table XII compares
ways of making masks that are other papers' (mask proposals, panoptic cut) and has no grid.
"""

from __future__ import annotations

from functools import partial

from c2s.methods.grid import Grid, PaperRun, Row, row, table

PAPER = PaperRun(dataset="coco-stuff", student="segformer-b4", iterations=40_000, batch_size=16)
FULL = (42.3, 41.9, 42.7)
OFF = {"global_distillation": False, "local_distillation": False}
_table = partial(table, paper=PAPER)

TABLES: dict[str, Grid] = {
    "IV": _table(
        "IV",
        "proposed modules",
        row("baseline", (11.2, 41.3, 6.4), **OFF, latent_embedding=False),
        row("latent", (20.2, 41.4, 13.4), **OFF),
        row("distillation", (38.8, 41.2, 36.6), latent_embedding=False),
        row("both", FULL),
    ),
    "V": _table(
        "V",
        "global and local distillation, all with latent embeddings",
        row("neither", (20.2, 41.4, 13.4), **OFF),
        row("local", (36.3, 41.9, 32.1), global_distillation=False),
        row("global", (40.8, 41.6, 40.1), local_distillation=False),
        row("both", FULL),
    ),
    "VI": _table(
        "VI",
        "distillations",
        row("cosine", (37.6, 41.4, 34.4), distillation="cosine"),
        row("l2", (17.8, 18.4, 17.3), distillation="l2"),
        row("residual (Froster)", (37.2, 41.7, 33.6), distillation="residual"),
        row("infonce", FULL),
    ),
    "VII": _table(
        "VII",
        "CLS tokens that calibrate the latent embeddings",
        row("none (no latent embeddings)", (38.8, 41.2, 36.6), latent_embedding=False),
        row("local", (41.9, 41.3, 42.6), calibration="local"),
        row("global", (41.7, 41.4, 42.1), calibration="global"),
        row("both", FULL),
        note='The paper takes "without latent embedding as the baseline", which is a row of Table IV.',
    ),
    "VIII": _table(
        "VIII",
        "generators of latent embeddings",
        row("prototypes", (41.0, 41.5, 40.5), generator="prototype"),
        row("prototypes, MLP", (41.5, 41.3, 41.8), generator="prototype-mlp"),
        row("CLS tokens", (40.2, 41.5, 38.9), generator="cls"),
        row("CLS tokens, MLP", (40.9, 41.5, 40.3), generator="cls-mlp"),
        row("both, transformer", FULL),
    ),
    "IX": _table(
        "IX",
        "size of the token bank",
        row("0", (41.0, 41.5, 40.4), bank_size=0),
        row("2", (41.5, 41.7, 41.4), bank_size=2),
        row("6", FULL, bank_size=6),
        row("14", (40.9, 41.3, 40.5), bank_size=14),
        note="Size 0 is read as no bank: the negatives are the other images of the batch. With none at "
        "all Eq. 4 is constant and the row would be that of local distillation alone, 36.3.",
    ),
    "X": _table(
        "X",
        "windows of the seeds",
        Row(name="3", paper=(41.2, 41.3, 41.1), build={"masks": {"windows": [3]}}),
        Row(name="7", paper=(41.8, 41.3, 42.3), build={"masks": {"windows": [7]}}),
        Row(name="3, 7", paper=FULL, build={"masks": {"windows": [3, 7]}}),
    ),
    "XI": _table(
        "XI",
        "aggregation in global distillation",
        row("mean", (38.4, 41.1, 35.9), aggregation="mean"),
        row("max", (42.0, 41.1, 42.9), aggregation="max"),
        row("attention", FULL),
    ),
}
