"""Shared inputs: a tiny CLIP in open_clip's folder layout, and a synthetic COCO-Stuff tree."""

from __future__ import annotations

import faulthandler
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook
from pictures import label_map, photo

from c2s.cpu_runtime import prepare

# Shapes and dtypes of tensors are checked as they are annotated; before these modules are first imported.
install_import_hook(
    [
        "c2s_pipeline.clustering",
        *(f"c2s.methods.{name}" for name in ("feature_map", "pixel_loss", "fused_pixel_loss")),
        *(
            f"c2s.methods.clip_to_seg.{name}"
            for name in (
                *("method", "self_training", "latent_embedding", "residual"),
                *("global_distillation", "local_distillation", "dense_distillation"),
            )
        ),
        "c2s.methods.clip_rc.method",
        "c2s.methods.clip_rc.recovery",
    ],
    "beartype.beartype",
)

# The suite is repeatable; look for new counterexamples with: pytest --hypothesis-profile=explore
settings.register_profile("repeatable", derandomize=True, deadline=None)  # no test is timed
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("repeatable")

# Ignored where the suite runs in the background, and so in all that it starts.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )

prepare()  # before torch: two processes of tests share the cores

SHARED = Path(__file__).parents[2] / "shared" / "data"

faulthandler.enable()

TINY_MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked gpu is the same code as others; it needs the device."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no GPU here")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real inputs; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real inputs is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a two-layer CLIP of random weights, loadable by plain open_clip."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(1)
    model = open_clip.model.CLIP(**TINY_MODEL)
    with torch.no_grad():  # the default initialisation gives nearly equal tokens
        for p in model.visual.parameters():
            p.add_(0.05 * torch.randn_like(p))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TINY_MODEL, "preprocess_cfg": {}})
    )
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def tiny_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model, and with "-quickgelu" behind it the same with QuickGELU, among open_clip's own names in this
    process."""
    import open_clip

    folder, name = tmp_path_factory.mktemp("names"), "tiny-b-8"
    for called, quick in ((name, False), (f"{name}-quickgelu", True)):
        (folder / f"{called}.json").write_text(json.dumps({**TINY_MODEL, "quick_gelu": quick}))
    open_clip.add_model_config(folder)
    return name


def make_coco_tree(root: Path, count: int, seed: int = 0) -> Path:
    """Make a small tree of `count` photos in the official COCO-Stuff layout; returns its folder."""
    rng = np.random.default_rng(seed)
    images = root / "images" / "train2017"
    labels = root / "stuffthingmaps_trainval2017" / "train2017"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i in range(count):
        height, width = int(rng.integers(40, 70)), int(rng.integers(40, 70))
        photo(rng, height, width).save(images / f"{i:012d}.jpg", quality=90)
        # person, bicycle, cow (unseen), grass (unseen), sky, unlabelled
        values = [0, 1, 20, 123, 156, 255]
        label_map(rng, height, width, values).save(labels / f"{i:012d}.png")
    return root


@pytest.fixture
def coco_tree(tmp_path: Path) -> Callable[..., Path]:
    """Make a small tree in the official COCO-Stuff layout; returns its folder."""
    return lambda count=6, seed=0: make_coco_tree(tmp_path / "coco_stuff164k", count, seed)


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Address of a Dask cluster of one worker process, shared by the tests that build."""
    import distributed

    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster.scheduler_address
