"""Training from a cache: configuration, batches, the Lightning module, runs."""

from __future__ import annotations

import os

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables that Lightning makes numbers of as it is imported, whether or not there are several processes."""


def _import_lightning() -> None:
    """Have Lightning imported without those that are none: of one process, nobody needs to know.

    A training of several still finds them in the environment, and refuses them (`cluster_environment`).
    """
    wrong = {name: os.environ[name] for name in RANKS if not _is_number(os.environ.get(name, "0"))}
    if wrong:
        for name in wrong:
            del os.environ[name]
        try:
            import pytorch_lightning  # noqa: F401  # torchmetrics with it, which reads LOCAL_RANK
        finally:
            os.environ.update(wrong)


def _is_number(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


_import_lightning()
