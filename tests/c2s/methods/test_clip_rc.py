"""CLIP-RC's objective against loops in double precision, and what it asks of a run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from naive_decoder import naive_decoder

from c2s.config import resolve
from c2s.methods.base import Facts
from c2s.methods.clip_rc import ClipRCConfig, RecoveryDecoder, recovery_loss
from c2s.methods.clip_rc.config import require_cells
from c2s.methods.clip_rc.examples import LabelBatch
from c2s.methods.registry import method_config
from c2s.runs.config import TrainConfig, load_config
from c2s.students.prompted_clip import Prompted
from c2s.students.prompting import vit_b
from c2s.testing import shapes
from c2s.vocabulary import Vocabulary
from c2s_cache import ConfigError

DIM = 12


def classes(*ids, unseen=False):
    rows = np.eye(DIM, dtype=np.float32)[list(ids)]
    names = tuple(f"class {i}" for i in ids)
    return Vocabulary(names, rows, ids if unseen else (), ids=ids)


def method(unseen=None, **settings):
    config = method_config({"name": "clip-rc", "heads": 3, "ffn": 20, **settings})
    torch.manual_seed(0)
    return config.build(Facts(classes(0, 2, 5), 7, unseen)).eval()


def batch(labels, unseen=None):
    image = torch.zeros(len(labels), 3, *labels.shape[1:], dtype=torch.uint8)
    return LabelBatch(image=image, labels=labels, unseen=unseen)


def found(count, size=(3, 3), images=2, regions=4):
    """What a student gives for `count` classes."""
    numbers = (
        (count, *size),
        (regions * count, DIM),
        (9, DIM),
        (regions * count, 2 * DIM),
        (9, DIM),
    )
    drawn = [torch.randn(images, *n, dtype=torch.double) for n in numbers]
    return Prompted(drawn[0] * 3, *drawn[1:])


def naive_masks(logits, labels, channel, unlabelled, focal_weight, dice_weight):
    """Focal and dice pixel by pixel: what is not annotated is a negative of every class, or left out."""
    focal, dice, masks = 0.0, 0.0, 0
    for scores, names in zip(logits, labels, strict=True):
        height, width = names.shape
        places = [(y, x) for y in range(height) for x in range(width)]
        if unlabelled == "ignored":
            places = [p for p in places if int(names[p]) in channel]
        for name, c in channel.items():
            overlap = mine = truth = 0.0
            for y, x in places:
                p = 1 / (1 + math.exp(-float(scores[c, y, x])))
                t = int(names[y, x]) == name
                right = p if t else 1 - p
                focal -= (0.25 if t else 0.75) * (1 - right) ** 2 * math.log(right) / len(places)
                overlap, mine, truth = overlap + p * t, mine + p, truth + t
            if truth:
                dice += 1 - (2 * overlap + 1) / (mine + truth + 1)
                masks += 1
    return (focal_weight * focal + dice_weight * dice) / max(masks, 1)


@pytest.mark.parametrize("unlabelled", ["negative", "ignored"])
@pytest.mark.parametrize("seed", range(8))
def test_masks_are_learnt_as_the_definition_says(unlabelled, seed):
    """Also from images without an annotated pixel, and from one that is of one class alone."""
    torch.manual_seed(seed)
    given = found(3)
    labels = torch.tensor([0, 1, 2, 5, 255])[torch.randint(5, (2, 5, 4))]
    labels[0] = (255, 2, 1)[seed % 3] if seed else labels[0]
    own = method(unlabelled=unlabelled, weights={"focal": 7, "dice": 3}, recovery={"weight": 0})
    losses = own(lambda images, text: given, torch.zeros(2, 3, 5, 4), batch(labels))
    fine = F.interpolate(given.logits, (5, 4), mode="bilinear", align_corners=False)
    want = naive_masks(fine, labels, {0: 0, 2: 1, 5: 2}, unlabelled, 7, 3)
    assert float(losses["loss"]) == pytest.approx(want, rel=1e-5)
    assert set(losses) == {"loss", "pixel", "focal", "dice"}


def test_a_batch_of_nothing_annotated_still_teaches_what_is_nothing():
    own = method(recovery={"weight": 0})
    given = found(3)
    logits = given.logits.float().requires_grad_()
    given = given._replace(logits=logits)
    labels = torch.full((2, 4, 4), 255)
    own(lambda images, text: given, torch.zeros(2, 3, 4, 4), batch(labels))["loss"].backward()
    assert (logits.grad > 0).all()


def naive_recovery(decoder, queries, patches, layers):
    """Eq. 9 of one image, by loops."""
    queries = torch.stack(
        [decoder.from_queries.weight @ q + decoder.from_queries.bias for q in queries]
    )
    patches = torch.stack(
        [decoder.from_patches.weight @ p + decoder.from_patches.bias for p in patches]
    )
    if layers:
        queries, patches = naive_decoder(decoder.decoder, queries, patches)
    queries = [decoder.to_descriptors.weight @ q + decoder.to_descriptors.bias for q in queries]
    patches = [decoder.to_patches.weight @ p + decoder.to_patches.bias for p in patches]
    return torch.stack(queries), torch.stack(patches)


def naive_loss(ours, target, kind):
    total = 0.0
    for a, b in zip(ours.flatten(0, 1), target.flatten(0, 1), strict=True):
        if kind == "kd":
            p, q = b.exp() / b.exp().sum(), a.exp() / a.exp().sum()
            total += float((p * (p / q).log()).sum())
        else:
            total += float(((a - b).abs() if kind == "l1" else (a - b) ** 2).mean())
    return total / (ours.shape[0] * ours.shape[1])


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["l1", "l2", "kd"])
def test_recovery_is_that_of_the_paper(kind, layers):
    torch.manual_seed(layers)
    own = method(recovery={"weight": 5, "loss": kind, "layers": layers}).double()
    with torch.no_grad():
        for parameter in own.recovery.parameters():
            parameter.normal_(std=0.4)
        given = found(3, images=1, regions=2)
        descriptors, patches = naive_recovery(
            own.recovery, given.queries[0], given.patches[0], layers
        )
        want = naive_loss(descriptors[None], given.descriptors, kind)
        want += naive_loss(patches[None], given.encoded, kind)
        losses = own(
            lambda images, text: given,
            torch.zeros(1, 3, 4, 4),
            batch(torch.zeros(1, 4, 4, dtype=torch.int64)),
        )
    assert float(losses["recovery"]) == pytest.approx(want, rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(float(losses["pixel"]) + 5 * want, rel=1e-4)


def test_what_is_recovered_gets_no_gradient():
    a, b = (torch.randn(1, 4, DIM, requires_grad=True) for _ in range(2))
    recovery_loss(a, b, "l1").backward()
    assert a.grad is not None
    assert b.grad is None


def test_without_weight_there_is_no_recovery_decoder():
    assert not any(isinstance(m, RecoveryDecoder) for m in method(recovery={"weight": 0}).modules())


def test_a_self_training_labels_unseen_pixels_by_the_running_model():
    """With the unseen class that it prefers there; never with a seen one, and nothing else."""
    own = method(unseen=classes(1, 3, unseen=True), recovery={"weight": 0})
    logits = torch.randn(1, 5, 3, 3)
    logits[:, :3] += 10  # the seen ones score higher, and are no candidates
    labels = torch.tensor([[[0, 255, 255], [2, 255, 5], [255, 255, 0]]])
    hidden = torch.tensor([[[False, True, True], [False, True, False], [False, False, False]]])
    target = own.target(logits, batch(labels, hidden))
    best = 3 + logits[0, 3:].argmax(0)
    want = torch.tensor([[0, -1, -1], [1, -1, 2], [-1, -1, 0]])
    assert torch.equal(target[0], torch.where(hidden[0], best, want))
    with pytest.raises(ValueError, match="which pixels are of unseen classes"):
        own.target(logits, batch(labels))


# ----------------------------------------------------------------- settings


def test_its_settings_are_the_students_and_its_own():
    assert issubclass(ClipRCConfig, type(vit_b(8)).__mro__[1])
    config = load_config(cache="c", defaults={"method": {"name": "clip-rc"}})
    assert (config.student, config.views, config.head_lr_mult) == ("prompted-clip", "fresh", 10.0)
    assert config.lr * config.head_lr_mult == pytest.approx(2e-4)
    assert config.final_lr * 2e-4 == pytest.approx(1e-6)
    architecture = config.method.architecture(vit_b(512))
    assert architecture["tower"] == vit_b(512).model_dump(mode="json")
    assert architecture["fuse"] == ["bridge", "cls"]
    assert "recovery" not in architecture


def test_wrong_settings_are_one_sentence_each():
    with pytest.raises(ConfigError) as error:
        resolve(
            TrainConfig, {"cache": "c", "method": {"name": "clip-rc", "bridge": 6}}, None, (), {}
        )
    assert "bridge=6 is no square number" in error.value.what


@pytest.mark.parametrize(
    ("bridge", "view", "says"),
    [(9, 512, "3 x 3 regions do not divide the 32 x 32 patches"), (4096, 512, "64 x 64 regions")],
)
def test_a_bridge_that_does_not_divide_the_view_is_refused(bridge, view, says):
    with pytest.raises(ConfigError) as error:
        require_cells(bridge, view, 16)
    assert says in error.value.what
    assert "1, 4, 16, 64, 256, 1024" in error.value.hint
    require_cells(16, view, 16)
    require_cells(0, view, 16)


def test_what_a_manifest_tells_is_refused_before_anything_is_computed():
    manifest = shapes.manifest_of(("labels", "views", "text", "tower"))
    for bridge in (0, 1, 4, 16, 64):
        more = {} if bridge else {"descriptor": "global", "fuse": []}
        method_config({"name": "clip-rc", "bridge": bridge, **more}).require_fit(manifest)
    with pytest.raises(ConfigError, match=r"16 x 16 regions do not divide the 8 x 8 patches"):
        method_config({"name": "clip-rc", "bridge": 256}).require_fit(manifest)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"method\.heads=5 does not divide the width 12"):
        method(heads=5)


def test_what_data_sets_change():
    suited = {
        k: method_config({"name": "clip-rc", **v.get("method", {})})
        for k, v in ClipRCConfig.by_dataset.items()
    }
    told = {
        k: (c.prompts, c.weights.focal, c.weights.dice, c.recovery.weight)
        for k, c in suited.items()
    }
    assert told["voc"] == (10, 100, 1, 2)
    assert told["coco-stuff"] == told["context"] == (100, 200, 3, 50)


def test_the_batch_says_nothing_of_unseen_pixels_unless_it_is_transductive():
    config = method_config({"name": "clip-rc"})
    inductive, transductive = (config.examples(None, t).paths for t in (False, True))
    assert transductive - inductive == {"labels/ignored"}
    plain = batch(torch.zeros(1, 2, 2, dtype=torch.int64))
    assert plain.unseen is None
    assert replace(plain, unseen=plain.labels > 0).unseen is not None
