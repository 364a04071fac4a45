"""ZeroSeg's losses against loops, its reconstruction against transformers, and that no label has a part in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from c2s.methods import Facts
from c2s.methods.zeroseg import (
    Measure,
    ZeroSegBatch,
    ZeroSegConfig,
)
from c2s.methods.zeroseg.losses import cell_places, collapse, match, mean_over, reverse, within
from c2s.methods.zeroseg.reconstruction import Reconstruction
from c2s.students import create
from c2s.students.mae_grouping import EPS
from c2s.vocabulary import Vocabulary

D = 24
SMALL = {"decoder": {"layers": 1, "width": 32, "heads": 4}}
MEASURES = (
    Measure(),
    Measure(summed=True, unit=True),
    Measure(unit=True),
    Measure("cosine"),
)


def student():
    torch.manual_seed(0)
    return create("zeroseg-shapes", D, "random").train()


def facts(of):
    none = Vocabulary((), np.zeros((0, D), np.float32))
    return Facts(none, 0, student=of)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(measure, a, b):
    """By its formula, of two tokens [D]."""
    a, b = a.detach(), b.detach()
    if measure.distance == "cosine":
        return float(1 - a @ b / (a.norm() * b.norm()))
    if measure.unit:
        a, b = a / a.norm(), b / b.norm()
    total = (a - b).abs().sum()
    return float(total if measure.summed else total / len(a))


@pytest.mark.parametrize("measure", MEASURES)
def test_matching_is_the_sum_over_segments_of_the_nearest_target(measure):
    segments, parts = draw(2, 3, D), draw(2, 5, D, seed=1)
    valid = torch.tensor([[True] * 5, [True, False, True, False, False]])
    far = measure.pairs(segments, parts)
    want = back = 0.0
    for b in range(2):
        here = [j for j in range(5) if valid[b, j]]
        pairs = [[apart(measure, segments[b, i], parts[b, j]) for j in here] for i in range(3)]
        want += sum(map(min, pairs)) / 2
        back += 3 * np.mean(np.min(pairs, 0)) / 2
    assert float(match(far, valid)) == pytest.approx(want, rel=1e-4)
    assert float(reverse(far, valid)) == pytest.approx(back, rel=1e-4)
    own = measure.own(segments, parts[:, :3])
    assert float(own[1, 2]) == pytest.approx(apart(measure, segments[1, 2], parts[1, 2]), rel=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_matching_knows_no_order_and_is_below_any_assignment(measure):
    segments, parts = draw(1, 4, D), draw(1, 6, D, seed=1)
    valid = torch.ones(1, 6, dtype=torch.bool)
    found = match(measure.pairs(segments, parts), valid)
    moved = measure.pairs(segments[:, [2, 0, 3, 1]], parts[:, [5, 1, 0, 3, 2, 4]])
    torch.testing.assert_close(match(moved, valid), found)
    for seed in range(5):
        fixed = torch.randint(6, (4,), generator=torch.Generator().manual_seed(seed))
        assert measure.own(segments, parts[:, fixed]).sum() >= found - 1e-6
    same = measure.pairs(parts[:, :4], parts)
    assert float(match(same, valid)) == pytest.approx(0, abs=1e-5)


def test_images_without_a_target_have_no_part():
    far, valid = draw(2, 3, 4).abs(), torch.tensor([[True] * 4, [False] * 4])
    torch.testing.assert_close(match(far, valid), match(far[:1], valid[:1]))
    torch.testing.assert_close(mean_over(far[:, 0], valid), far[0, 0].mean())
    assert float(match(far, torch.zeros(2, 4, dtype=torch.bool))) == 0


def test_a_cell_covers_patches_by_area():
    places = cell_places((2, 3), 8, 8).unflatten(1, (8, 8))
    assert places.shape == (13, 8, 8)
    assert torch.equal(
        places[1],
        torch.cat([torch.zeros(8, 4), torch.ones(8, 4)], 1).where(
            torch.arange(8)[:, None] < 4, torch.zeros(8, 8)
        ),
    )
    middle = torch.zeros(8)
    middle[2:6] = torch.tensor([1 / 3, 1, 1, 1 / 3])  # from 8/3 to 16/3
    torch.testing.assert_close(places[4 + 4], middle[:, None] * middle[None])
    torch.testing.assert_close(places[:4].sum(0), torch.ones(8, 8))
    torch.testing.assert_close(places[4:].sum(0), torch.ones(8, 8))


def batch(parts, ids=None, regions=None, scales=(2,)):
    return ZeroSegBatch(
        image=torch.zeros(len(parts), 3, 64, 64, dtype=torch.uint8),
        global_cls=draw(len(parts), D, seed=3),
        targets=parts,
        ids=ids,
        regions=regions,
        scales=scales,
    )


def method(**settings):
    of = student()
    torch.manual_seed(1)
    return of, ZeroSegConfig(**(SMALL | settings)).build(facts(of)).train()


def test_a_located_part_is_the_sum_of_the_segments_in_it():
    """By loops over cells, visible patches and segments; a cell without a visible patch has no part."""
    of, built = method(locate=1, patches=1, reconstruction=0, image=0, match=0, distance="cosine")
    parts = draw(2, 4, D, seed=2)
    noise = torch.rand(2, 64, generator=torch.Generator().manual_seed(4))
    noise[0].view(8, 8)[:4, :4] += 1  # the first cell of the first image is hidden
    grouped = of(draw(2, 3, 64, 64), 0.6, noise)
    losses = built.losses(grouped, draw(2, 3, 64, 64), batch(parts))
    want_locate, want_patches = [], []
    for b in range(2):
        located, local = [], []
        for cell in range(4):
            rows, columns = (
                range(cell // 2 * 4, cell // 2 * 4 + 4),
                range(cell % 2 * 4, cell % 2 * 4 + 4),
            )
            inside = [
                n
                for n, p in enumerate(grouped.kept[b].tolist())
                if p // 8 in rows and p % 8 in columns
            ]
            if not inside:
                continue
            shares = grouped.maps[b][:, inside].mean(1)
            mixed = sum(shares[i] * grouped.segments[b, i] for i in range(8))
            located.append(apart(Measure("cosine"), mixed, parts[b, cell]))
            mean = built.project(grouped.patches[b, 1:][inside]).mean(0)
            local.append(apart(Measure("cosine"), mean, parts[b, cell]))
        assert len(located) == (3 if b == 0 else 4)
        want_locate.append(np.mean(located))
        want_patches.append(np.mean(local))
    assert losses["locate"].item() == pytest.approx(np.mean(want_locate), rel=1e-4)
    assert losses["patches"].item() == pytest.approx(np.mean(want_patches), rel=1e-4)
    total = losses["locate"] + losses["patches"]
    torch.testing.assert_close(losses["loss"], total)


def test_regions_lie_where_their_pixels_are():
    of, built = method(source="regions", locate=1, reconstruction=0, image=0, match=0)
    regions = torch.full((1, 64, 64), 5)
    regions[:, :, 40:] = 6
    regions[:, :8] = -1
    ids = torch.tensor([[6, 5, -1]])
    grouped = of(draw(1, 3, 64, 64), 0.0)
    places = built._visible(batch(draw(1, 3, D), ids, regions), grouped, draw(1, 3, 64, 64))
    right = places[0, 0].unflatten(0, (8, 8))
    assert (right[1:, 5:] > 0).all()
    assert right[:, :5].sum() == right[0].sum() == places[0, 2].sum() == 0
    losses = built.losses(grouped, draw(1, 3, 64, 64), batch(draw(1, 3, D), ids, regions))
    shares = within(places, grouped.maps.mT)
    terms = (shares @ grouped.segments - draw(1, 3, D)).abs().mean(-1)[0, :2]
    torch.testing.assert_close(losses["locate"], terms.mean())


def test_z_is_distilled_from_the_whole_alone_unless_it_is_multi_scale():
    parts = draw(2, 4, D, seed=2)
    for multiscale in (False, True):
        of, built = method(multiscale=multiscale, reconstruction=0, match=0)
        given = batch(parts)
        grouped = of(draw(2, 3, 64, 64), 0.6)
        found = built.losses(grouped, draw(2, 3, 64, 64), given)["image"]
        z = built.mlp(built.layer(grouped.segments).mean(1))
        every = [given.global_cls, *(parts.unbind(1) if multiscale else ())]
        want = torch.stack([(z - v).abs().mean(-1) for v in every]).mean()
        torch.testing.assert_close(found, want)


def test_the_whole_image_is_no_target_of_matching():
    """A segment that equals its token is still as far from the nearest cell."""
    of, built = method(reconstruction=0, image=0)
    given, grouped = batch(draw(2, 4, D, seed=2)), of(draw(2, 3, 64, 64), 0.6)
    moved = grouped._replace(segments=given.global_cls[:, None].expand(-1, 8, -1))
    assert built.losses(moved, draw(2, 3, 64, 64), given)["match"] > 1
    at = grouped._replace(segments=given.targets.repeat(1, 2, 1))
    assert built.losses(at, draw(2, 3, 64, 64), given)["match"] < 1e-5


def test_the_center_is_the_mean_of_all_tokens_so_far():
    of, built = method(center=True, reconstruction=0, image=0)
    means = []
    for seed in range(3):
        parts = draw(2, 4, D, seed=seed) + 5
        given = batch(parts)
        built.losses(of(draw(2, 3, 64, 64), 0.6), draw(2, 3, 64, 64), given)
        means.append(torch.cat([given.global_cls, parts.flatten(0, 1)]).mean(0))
    torch.testing.assert_close(built.mean, torch.stack(means).mean(0))
    before = built.mean.clone()
    built.eval().losses(of(draw(2, 3, 64, 64), 0.6), draw(2, 3, 64, 64), batch(draw(2, 4, D)))
    assert torch.equal(built.mean, before)
    assert {"mean", "seen"} <= built.state_dict().keys()


@pytest.mark.parametrize("ratio", [0.0, 0.4, 0.8])
def test_reconstruction_is_maes(ratio):
    """Loss and gradient of transformers' ViTMAEForPreTraining with the same weights and noise."""
    of = student()
    ours = Reconstruction(of, 2, 32, 4)
    theirs = ViTMAEForPreTraining(
        ViTMAEConfig(
            **{"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
            **{"intermediate_size": 512, "image_size": 64, "patch_size": 8, "layer_norm_eps": EPS},
            **{"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2},
            **{"decoder_num_attention_heads": 4, "decoder_intermediate_size": 128},
            **{"mask_ratio": ratio, "norm_pix_loss": False},
        )
    )
    theirs.vit.load_state_dict(of.backbone.state_dict(), strict=False)
    theirs.decoder.load_state_dict(ours.decoder.state_dict(), strict=False)
    positions = ours.decoder.decoder_pos_embed
    assert positions.std() > 0.5
    theirs.decoder.decoder_pos_embed.data.copy_(
        positions
    )  # it begins with zeros, to be read from files
    images, noise = (
        draw(2, 3, 64, 64),
        torch.rand(2, 64, generator=torch.Generator().manual_seed(2)),
    )
    found = ours(of(images, ratio, noise), images)
    if ratio == 0:
        assert found.item() == 0
        return
    want = theirs(images, noise=noise).loss
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)
    found.backward()
    want.backward()
    torch.testing.assert_close(
        of.backbone.embeddings.cls_token.grad, theirs.vit.embeddings.cls_token.grad
    )


def test_larger_views_are_reconstructed_too():
    of = student()
    images = draw(1, 3, 96, 96)
    assert Reconstruction(of, 1, 32, 4)(of(images, 0.5), images).isfinite()


def test_collapse_shows_in_what_is_logged():
    maps = torch.zeros(2, 4, 10)
    maps[:, 1] = 1
    token = draw(1, 1, D).expand(2, 4, D)
    far = draw(2, 1, 6).abs().expand(2, 4, 6)
    found = collapse(maps, token, far)
    assert {k: pytest.approx(float(v), abs=1e-5) for k, v in found.items()} == {
        **{"used": 1.0, "entropy": 0.0, "cosine": 1.0, "distinct": 1.0},
    }
    spread = torch.eye(4).repeat(1, 3)[None, :, :10]
    found = collapse(spread, torch.eye(4, D)[None], 1 - torch.eye(4, 6)[None])
    assert {k: float(v) for k, v in found.items()} == {
        **{"used": 4.0, "entropy": 0.0, "cosine": 0.0, "distinct": 4.0},
    }
    even = collapse(torch.full((1, 4, 10), 0.25), torch.eye(4, D)[None], torch.zeros(1, 4, 0))
    assert float(even["entropy"]) == pytest.approx(1.0)
    assert "distinct" not in even
    _, built = method()
    assert "collapse: 1.0 of an image" in built.concern({"used": 1.0, "cosine": 0.2})
    assert "cosine of 0.99" in built.concern({"used": 5.0, "cosine": 0.99})
    assert built.concern({"used": 4.0, "cosine": 0.5}) is None


def test_the_image_alone_trains_without_matching():
    of, built = method()
    losses = built.losses(
        of(draw(2, 3, 64, 64), 0.6), draw(2, 3, 64, 64), batch(draw(2, 0, D), scales=())
    )
    assert losses["loss"].isfinite()
    assert losses.keys() == {"loss", "rec", "image", "used", "entropy", "cosine"}
