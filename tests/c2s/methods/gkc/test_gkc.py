"""The objective: Mask2Former's losses where its extras are off, and what each extra changes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gkc_cases import PLAIN, SETS, B, C, N, Q, batch, build, facts, masks_of, queries
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from c2s.methods.gkc import GKCConfig
from c2s.methods.gkc.examples import NONE
from c2s.methods.gkc.grounding import ground
from c2s.methods.registry import run_defaults
from c2s.runs.config import load_config
from c2s.students.query import Queries
from c2s_cache import ConfigError


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def same_points(monkeypatch):
    """Random points are the same for every mask, whoever draws them, as long as they are as many."""
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: _points(shape))


def _points(shape):
    if len(shape) < 3:
        return torch.full(shape, 0.5)
    drawn = np.random.default_rng(shape[-2]).random(shape[-2:], np.float32)
    return torch.from_numpy(drawn).expand(*shape).contiguous()


def transformers_losses(found, data, method, points):
    config = Mask2FormerConfig(num_labels=C, train_num_points=points)
    loss = Mask2FormerLoss(config, {})
    masks, labels = [], []
    for i in range(B):
        there = torch.nonzero(data.classes[i] != NONE)[:, 0]
        masks.append(torch.stack([(data.segments[i] == n).float() for n in there]))
        labels.append(method.channel[data.classes[i, there]])
    total = {}
    for logits, embeddings in zip(found.masks, found.embeddings, strict=True):
        classes = found.logits(embeddings, method.text)
        for name, value in loss(logits, classes, masks, labels).items():
            total[name] = total.get(name, 0) + value
    return total


def test_without_its_extras_the_losses_are_mask2formers(monkeypatch):
    same_points(monkeypatch)
    method, found, data = build(points=50, **PLAIN), queries(), batch()
    got = method.losses(found, data)
    want = transformers_losses(found, data, method, 50)
    torch.testing.assert_close(got["bce"], want["loss_mask"])
    torch.testing.assert_close(got["dice"], want["loss_dice"])
    torch.testing.assert_close(got["ce"], want["loss_cross_entropy"])
    torch.testing.assert_close(got["loss"], 5 * got["bce"] + 5 * got["dice"] + 2 * got["ce"])
    assert float(got["distillation"]) == 0


def test_points_are_most_of_them_uncertain():
    from c2s.methods.gkc.mask_loss import at_points, uncertain_points

    logits = torch.linspace(-4, 4, 64)[None, None].expand(1, 64, 64).contiguous()
    points = uncertain_points(logits, 400, 3.0, 0.75)
    values = at_points(logits[:, None], points)[:, 0].abs()
    assert points.shape == (1, 400, 2)
    assert float(values[:, :300].max()) < 1.5
    assert float(values[:, 300:].max()) > 3


def test_all_cells_are_looked_at_where_there_are_no_points():
    """A mask that a query draws exactly, cell by cell, costs next to nothing."""
    method, data = build(points=0, **PLAIN), batch()
    found = queries()
    wanted = F.one_hot(data.segments + 1, N + 1)[..., 1:].permute(0, 3, 1, 2).float()
    cells = F.adaptive_avg_pool2d(wanted, 8)
    drawn = cells.clamp(1e-4, 1 - 1e-4)
    exact = torch.cat([torch.logit(drawn), torch.full((B, Q - N, 8, 8), -9.0)], 1)
    perfect = Queries((exact,) * SETS, found.shared, found.embeddings, found.nothing, found.scale)
    losses = method.losses(perfect, data)
    assert float(losses["dice"]) < 0.35 < float(method.losses(found, data)["dice"])
    entropy = -(cells * drawn.log() + (1 - cells) * (1 - drawn).log())
    there = (data.classes != NONE)[..., None, None]
    mean = float((entropy * there).sum() / (there.sum() * 64))
    assert float(losses["bce"]) == pytest.approx(SETS * mean, rel=1e-3)


def test_a_drawn_word_stands_for_its_class_where_its_segment_is_matched():
    data, found = batch(((3, 3, NONE), (3, NONE, NONE))), queries()
    plain = build(points=0, **PLAIN).losses(found, data)
    worded = build(
        points=0, **PLAIN | {"synonyms": {"how": "random", "sampling": "score", "scale": 1e-6}}
    )
    found_words = worded.words
    channel = worded.channel[3]
    assert int(found_words.there[channel].sum()) == 3
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        ce = worded.losses(found, data)["ce"]
        seen.add(round(float(ce), 5))
    assert len(seen) > 3
    only = build(points=0, **PLAIN | {"synonyms": {"how": "random", "threshold": 0.99}})
    only.words.there[channel] = torch.tensor([True, False, False])
    torch.testing.assert_close(only.losses(found, data)["ce"], plain["ce"])


@pytest.mark.parametrize("how", ["average", "maximum"])
def test_words_together_are_one_class(how):
    """By loops over the logits of all words."""
    method, found, data = build(points=0, **PLAIN | {"synonyms": {"how": how}}), queries(), batch()
    plain = build(points=0, **PLAIN)
    got, counts = method.losses(found, data)["ce"], (1, 2, 3, 1)
    pairs = method.matches(found, masks_of(data), data)
    rows = facts().words.embeddings
    starts = np.cumsum((0, *counts))
    total = 0.0
    for i in range(SETS):
        target = torch.full((B, Q), C)
        image, query, segment = pairs[i]
        target[image, query] = method.channel[data.classes[image, segment]]
        above, below = 0.0, 0.0
        for b in range(B):
            for q in range(Q):
                v = F.normalize(found.embeddings[i][b, q], dim=0)
                each = [5.0 * float(torch.from_numpy(w) @ v) for w in rows]
                groups = [each[starts[c] : starts[c + 1]] for c in range(C)]
                logits = [np.mean(g) if how == "average" else max(g) for g in groups]
                logits.append(5.0 * float(F.normalize(found.nothing, dim=0) @ v))
                weight = 0.1 if target[b, q] == C else 1.0
                above -= weight * float(torch.tensor(logits).log_softmax(0)[target[b, q]])
                below += weight
        total += above / below
    assert float(got) == pytest.approx(total, rel=1e-4)
    assert float(plain.losses(found, data)["ce"]) != pytest.approx(total, rel=1e-3)


def test_a_segment_that_is_dropped_has_no_class_loss(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: torch.zeros(shape))
    found, data = queries(), batch()
    dropped = build(points=0, **PLAIN | {"region_dropout": 0.5})
    none = build(points=0, **PLAIN)
    pairs = none.matches(found, masks_of(data), data)
    total = 0.0
    for i in range(SETS):
        log = found.logits(found.embeddings[i], none.text).log_softmax(-1)[..., -1]
        free = torch.ones(B, Q, dtype=torch.bool)
        free[pairs[i].image, pairs[i].query] = False
        total -= float(log[free].mean())
    assert float(dropped.losses(found, data)["ce"]) == pytest.approx(total, rel=1e-5)


CAPTIONS = torch.tensor([[[0, 8, -1], [9, 2, 3]], [[7, 5, 4], [-1, -1, -1]]])


def test_captions_are_grounded_in_the_matched_queries_of_every_set():
    found, data = queries(), replace(batch(), captions=CAPTIONS)
    drops = {"grounding": {"dropped": 0.0, "words": 2, "regions": 2}}
    method = build(points=0, **PLAIN, weights={"grounding": 3.0}, **drops)
    pairs = method.matches(found, masks_of(data), data)
    wanted, table = [], torch.from_numpy(facts().every_word)
    for words in ([0, 8], [9, 2]):
        each = table[torch.tensor([words, [7, 5]])]
        total = torch.zeros(())
        for i, (image, query, _) in enumerate(pairs):
            regions = [found.embeddings[i][b, query[image == b][:2]] for b in range(B)]
            there = torch.ones(B, 2, dtype=torch.bool)
            total += ground(each, there, torch.stack(regions), there, found.scale)
        wanted.append(round(float(total), 4))
    got = set()
    for seed in range(8):
        torch.manual_seed(seed)
        losses = method.losses(found, data)
        got.add(round(float(losses["grounding"]), 4))
        others = 5 * losses["bce"] + 5 * losses["dice"] + 2 * losses["ce"]
        torch.testing.assert_close(losses["loss"], others + 3 * losses["grounding"])
    assert sorted(got) == pytest.approx(sorted(wanted), abs=2e-4)


def test_without_its_weight_grounding_changes_nothing():
    """Nothing is drawn for it: every loss is the same bit for bit, whatever the captions."""
    settings = {"points": 0, "synonyms": {"how": "random"}}
    method, found, data = build(**settings), queries(), batch()
    grounded = build(**settings, weights={"grounding": 1.0})

    def losses(method, data):
        torch.manual_seed(5)
        return method.losses(found, data)

    want, captioned = losses(method, data), replace(data, captions=CAPTIONS)
    assert float(want["grounding"]) == 0
    assert all(torch.equal(want[n], v) for n, v in losses(method, captioned).items())
    assert float(losses(grounded, captioned)["grounding"].detach()) > 0


def test_images_without_a_segment_teach_nothing():
    found, data = queries(), batch(((0, 2, NONE), (NONE, NONE, NONE)))
    for tensor in (*found.embeddings, *found.masks, *found.shared):
        tensor.requires_grad_()
    method = build(points=0, synonyms={"how": "random"})
    losses = method.losses(found, data)
    losses["loss"].backward()
    assert all(bool(v.isfinite()) for v in losses.values())
    for tensor in (*found.embeddings, *found.masks):
        assert float(tensor.grad[1].abs().max()) == 0
        assert float(tensor.grad[0].abs().max()) > 0
    nothing = batch(((NONE,) * 3,) * 2)
    assert float(method.losses(queries(), nothing)["loss"].detach()) == 0


def test_a_second_class_loss_has_the_plain_names():
    found, data = queries(), batch()
    one = build(points=0, **PLAIN)
    two = build(points=0, plain_weight=3.0, **PLAIN)
    first, second = one.losses(found, data), two.losses(found, data)
    torch.testing.assert_close(second["loss"] - first["loss"], 3 * first["ce"])


@pytest.mark.parametrize("token", ["prior", "post"])
def test_what_is_distilled(token):
    found, data = queries(), batch()
    method = build(points=0, student_token=token, **PLAIN | {"distillation": "vanilla"})
    pairs = method.matches(found, masks_of(data), data)
    total = 0.0
    for i, (image, query, segment) in enumerate(pairs):
        ours = found.embeddings[i][image, query]
        if token == "prior":
            ours = method.distilled[i](found.shared[i][image, query])
        far = F.normalize(ours, dim=-1) - F.normalize(data.tokens[image, segment], dim=-1)
        total += float(far.square().sum(-1).mean().detach())
    assert float(method.losses(found, data)["distillation"].detach()) == pytest.approx(
        total, rel=1e-4
    )


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="tokens=regions: regions have global tokens"):
        GKCConfig(tokens="regions")
    assert GKCConfig().any_view
    assert not GKCConfig(latent="regions").any_view
    assert not GKCConfig(latent="classes").any_view
    assert not GKCConfig(tokens="regions", teacher_token="global").any_view
    assert set(GKCConfig().read_stages()) == set(GKCConfig.stages)
    assert "words" not in GKCConfig(synonyms={"how": "off"}).read_stages()
    grounded = GKCConfig(synonyms={"how": "off"}, weights={"grounding": 1.0})
    assert {"words", "captions"} <= set(grounded.read_stages())
    assert "captions" in GKCConfig.beside
    assert "segments" not in GKCConfig(tokens="regions", teacher_token="global").read_stages()
    for latent in ("regions", "classes"):
        assert {"masks", "regions"} <= set(GKCConfig(latent=latent).read_stages())


def test_self_training_is_refused():
    """It would only train longer: nothing here looks at unseen classes."""
    with pytest.raises(ValueError, match="gkc has no self-training"):
        GKCConfig().build(replace(facts(), unseen=facts().seen))


def test_segments_are_counted_on_average_over_processes(monkeypatch):
    from c2s.methods.gkc import method as module

    def added(tensor):
        tensor += 5  # of the other process

    fake = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        all_reduce=added,
        get_world_size=lambda: 2,
    )
    monkeypatch.setattr(module.torch, "distributed", fake)
    assert float(module._mean_number(torch.tensor(2))) == 3.5
    monkeypatch.undo()
    assert float(module._mean_number(torch.tensor(0))) == 1


def test_views_are_drawn_anew_unless_regions_are_read():
    """The schedule is the method's; what reads regions of a view says what to set."""
    config = load_config(cache="x", settings=["method.name=gkc"])
    assert (config.views, config.clip_norm, config.schedule) == ("fresh", 0.01, "step")
    latent = ["method.name=gkc", "method.latent=regions"]
    with pytest.raises(ConfigError, match="set views=cached"):
        load_config(cache="x", settings=latent)
    assert load_config(cache="x", settings=[*latent, "views=cached"]).views == "cached"
    shapes = run_defaults("gkc", "shapes", None)
    small = load_config(cache="x", settings=latent, defaults=shapes)
    assert (small.student, small.views, small.clip_norm) == ("mask2former:shapes", "cached", None)
