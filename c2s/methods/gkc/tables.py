"""The paper's ablations, Tables 4 to 7 (COCO panoptic, 50 k iterations; mIoU on Context and Cityscapes), as grids.

Table 3 is of videos and Table 8 of another method, which have no grid.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from c2s.methods.grid import Grid, PaperRun, Row, row, table

PAPER = PaperRun(
    dataset="coco-panoptic", student="mask2former:resnet50_clip", iterations=50_000, batch_size=112
)
COLUMNS = ("mIoU@context", "mIoU@cityscapes")
PLAIN: dict[str, Any] = {"how": "off"}
FULL = (41.91, 34.35)
_table = partial(table, paper=PAPER, columns=COLUMNS)
MAIN = (
    row("labels only", (39.70, 27.61), distillation="none", synonyms=PLAIN),
    row("+ diversification", (41.45, 32.16), distillation="none"),
    row("+ distillation", (41.23, 32.62), synonyms=PLAIN),
    row("both", FULL),
)
LATENT = row(
    "both, latent regions", latent="classes", student_token="post", weights={"contrast": 2.0}
)

TABLES: dict[str, Grid] = {
    "demo": Grid(
        name="gkc-demo",
        title="GKC on Shapes: Table 4, and latent regions as further segments",
        paper=PAPER,
        columns=COLUMNS,
        on=("shapes-renamed",),
        rows=(*MAIN, LATENT),
        note="Latent regions are classes of their image, and the embeddings that classes are told by learn their "
        "tokens (latent=classes, student_token=post, weights.contrast=2).",
    ),
    "4": _table("4", "text diversification and text-guided distillation", *MAIN),
    "5": _table(
        "5",
        "distillations, without text diversification",
        row("none", (39.70, 27.61), distillation="none", synonyms=PLAIN),
        row("vanilla", (40.14, 32.49), distillation="vanilla", synonyms=PLAIN),
        row("vision-guided", (39.67, 32.33), distillation="vision", synonyms=PLAIN),
        row("text-guided", (41.23, 32.62), synonyms=PLAIN),
    ),
    "6": _table(
        "6",
        "tokens of teacher and student, without text diversification",
        *(
            row(
                f"{teacher}, {student}",
                paper,
                teacher_token=teacher,
                student_token=student,
                synonyms=PLAIN,
            )
            for teacher, student, paper in (
                ("global", "post", (40.71, 30.43)),
                ("global", "prior", (40.31, 31.13)),
                ("spatial", "post", (41.29, 30.12)),
                ("spatial", "prior", (41.23, 32.62)),
            )
        ),
    ),
    "7a": _table(
        "7a",
        "uses of the words, without distillation",
        *(
            row(how, paper, distillation="none", synonyms={"how": how})
            for how, paper in (
                ("random", (41.45, 32.16)),
                ("average", (41.80, 31.42)),
                ("maximum", (41.17, 32.73)),
            )
        ),
    ),
    "7b": _table(
        "7b",
        "backbones",
        *(
            Row(name=backbone, paper=paper, train={"student": f"mask2former:{backbone}"})
            for backbone, paper in (
                ("resnet50", (45.6, 32.9)),
                ("resnet50_clip", (41.9, 34.3)),
                ("resnet101", (45.2, 34.8)),
                ("resnet101_clip", (44.2, 37.6)),
            )
        ),
    ),
}
