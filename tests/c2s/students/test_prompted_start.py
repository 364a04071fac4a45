"""Where the training of a prompted CLIP begins: at scores of a deviation, at the tower's own alignment."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from prompted_cases import PLAIN, images, info, openai_tower, student, words

from c2s.students.prompted_clip import PromptedCLIP


@torch.no_grad()
def test_the_first_scores_have_the_deviation_that_is_asked_for():
    """Without it the root of D: 11 at 128 channels, where every sigmoid is shut or open."""
    torch.manual_seed(0)
    tower = info(openai_tower()).model_copy(update={"dim": 128})
    sizes = {"heads": 4, "ffn": 64, "bridge": 0, "descriptor": "global", "fuse": [], "tower": tower}
    text = F.normalize(torch.randn(20, 128), dim=1)
    found = {}
    for asked in (None, 1.0, 3.0):
        model = PromptedCLIP(128, {**sizes, "first_scores": asked}).eval()
        queries, patches = model.decoder(text[None], torch.randn(1, 60, 128))
        found[asked] = float((queries @ patches.mT).std())
    assert found[None] == pytest.approx(128**0.5, rel=0.3)
    assert found[1.0] == pytest.approx(found[None] / 128**0.5, rel=0.2)
    assert found[3.0] == pytest.approx(3 * found[1.0], rel=0.3)


@pytest.mark.parametrize("settings", [PLAIN, {}, {"fuse": ["cls"]}, {"descriptor": "bridge"}])
@torch.no_grad()
def test_training_can_begin_with_the_towers_own_alignment(settings):
    """What is added to the drawn layers is exactly the text and the patches, and nothing else is another."""
    drawn, aligned = student(**settings), student(**settings, start="tower")
    text, size = words(), (4, 4)
    found = drawn.encode(images(32, 32))
    torch.testing.assert_close(aligned.encode(images(32, 32)), found, rtol=0, atol=0)
    queries, patches, descriptors = drawn.aligned(found, text, size)
    own_queries, own_patches, own_descriptors = aligned.aligned(found, text, size)
    assert torch.equal(own_descriptors, descriptors)
    times = queries.shape[1] // len(text)
    torch.testing.assert_close(own_queries - queries, text.repeat(times, 1).expand_as(queries))
    fused = found.patches if drawn.shape.fuse else torch.zeros_like(patches)
    torch.testing.assert_close(own_patches - patches, fused)
    others = {k for k in drawn.state_dict() if k not in ("query.weight", "fuse.weight")}
    assert all(torch.equal(drawn.state_dict()[k], aligned.state_dict()[k]) for k in others)
