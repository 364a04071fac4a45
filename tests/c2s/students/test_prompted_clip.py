"""`prompted-clip` against open_clip's tower, against loops in double precision, and against the paper's counts."""

from __future__ import annotations

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from naive_decoder import naive_decoder
from prompted_cases import DIM, PLAIN, images, openai_tower, student, words

from c2s.evaluation.classifier import Classifier
from c2s.methods.clip_rc import RecoveryDecoder
from c2s.methods.cost import student_cost
from c2s.students import create
from c2s.students.prompted_clip import Encoded, attention_mask, patch_cells
from c2s.students.two_stream import TwoStreamDecoder
from c2s.testing import StudentContract
from c2s_cache import ConfigError


def resized(visual, grid):
    """The tower with its positions brought to another grid bilinearly."""
    positions = visual.positional_embedding.detach()
    square = positions[1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, grid, mode="bilinear", align_corners=False)
    square = square[0].flatten(1).T
    visual.positional_embedding = torch.nn.Parameter(torch.cat([positions[:1], square]))
    return visual


@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@torch.no_grad()
def test_without_prompts_and_bridge_it_is_the_tower(size, pool, activation):
    """Its class feature is `encode_image`, its patches are the projected patch tokens."""
    act = open_clip.transformer.QuickGELU if activation == "quick_gelu" else torch.nn.GELU
    visual = openai_tower(pool, act)
    ours = student(visual, activation, **PLAIN).encode(images(*size))
    resized(visual, (size[0] // 8, size[1] // 8))
    visual.output_tokens = True
    pooled, tokens = visual(images(*size))
    tokens = tokens @ visual.proj
    for found, want in ((ours.cls, pooled), (ours.patches, tokens)):
        torch.testing.assert_close(found, F.normalize(want, dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
@torch.no_grad()
def test_a_bridge_of_one_token_is_the_class_token(pool, size):
    """M = 1 and K = 0: both start alike and see the same patches."""
    found = student(openai_tower(pool), prompts=0, bridge=1).encode(images(*size))
    torch.testing.assert_close(found.bridge[:, 0], found.cls, rtol=0, atol=1e-5)


def by_membership(prompts, height, width, bridge):
    """What may look at what, by sets: a region and the patches of its cell, and all that is no region among itself."""
    side, first = math.isqrt(bridge), 1 + prompts + height * width
    cells = [
        (y * side // height) * side + x * side // width for y in range(height) for x in range(width)
    ]
    pairs = {(i, j) for i in range(first) for j in range(first)}
    pairs |= {(first + m, first + m) for m in range(bridge)}
    of_cell = {(first + m, 1 + prompts + n) for n, m in enumerate(cells)}
    pairs |= of_cell | {(j, i) for i, j in of_cell}
    every = range(first + bridge)
    return [[(i, j) in pairs for j in every] for i in every]


@pytest.mark.parametrize("seed", range(12))
def test_the_mask_is_set_membership(seed):
    drawn = torch.Generator().manual_seed(seed)
    prompts, side, high, wide = (
        int(torch.randint(low, top, (), generator=drawn)) for low, top in ((0, 4), (1, 4), (1, 4), (1, 4))
    )  # fmt: skip
    size = (side * high, side * wide)
    mask = attention_mask(prompts, size, side**2)
    assert mask.tolist() == by_membership(prompts, *size, side**2)
    regions = mask[-(side**2) :]
    assert (regions.sum(1) == high * wide + 1).all()


def test_cells_of_a_grid_that_they_do_not_divide_differ_by_one_patch():
    counts = patch_cells((7, 5), 2).bincount(minlength=4)
    assert counts.tolist() == [4 * 3, 4 * 2, 3 * 3, 3 * 2]


# ----------------------------------------------------------------- naive references, in double precision


def bilinear(grid, y, x, height, width):
    """Value at the centre of cell (y, x) of height x width, of a square grid [side][side] of vectors."""
    side = len(grid)
    at = []
    for i, n in ((y, height), (x, width)):
        place = min(max((i + 0.5) * side / n - 0.5, 0), side - 1)
        low = int(place)
        at.append((low, min(low + 1, side - 1), place - low))
    (y0, y1, fy), (x0, x1, fx) = at
    top = grid[y0][x0] * (1 - fx) + grid[y0][x1] * fx
    return top * (1 - fy) + (grid[y1][x0] * (1 - fx) + grid[y1][x1] * fx) * fy


def naive_alignment(model, found, text, size):
    """Eq. 4-6 of one image, element by element."""
    cls, patches, bridge = found
    side = math.isqrt(len(bridge))
    grid = [[bridge[r * side + c] for c in range(side)] for r in range(side)]
    aligned = []
    for n, patch in enumerate(patches):
        beside = {"cls": cls}
        if "bridge" in model.shape.fuse:
            beside["bridge"] = bilinear(grid, n // size[1], n % size[1], *size)
        joined = torch.cat([*(beside[k] for k in model.shape.fuse), patch])
        aligned.append(model.fuse.weight @ joined + model.fuse.bias if model.shape.fuse else patch)
    kinds = {"regional": [r + cls for r in bridge], "bridge": list(bridge), "global": [cls]}
    described = [
        torch.cat([t * region, t]) for region in kinds[model.shape.descriptor] for t in text
    ]
    queries = [model.query.weight @ d + model.query.bias for d in described]
    return torch.stack(queries), torch.stack(aligned), torch.stack(described)


CASES = [
    {"descriptor": descriptor, "fuse": fuse, "bridge": bridge}
    for descriptor in ("regional", "bridge", "global")
    for fuse in (["bridge", "cls"], ["cls", "bridge"], ["cls"], ["bridge"], [])
    for bridge in (1, 4, 9)
]


@torch.no_grad()
@pytest.mark.parametrize("case", range(len(CASES)))
def test_alignment_and_decoder_are_those_of_the_paper(case):
    """Against loops, on random features, sizes and classes."""
    torch.manual_seed(case)
    model = student(**CASES[case]).double()
    for parameter in model.decoder.parameters():
        parameter.normal_(std=0.5)
    height, width, classes = (int(torch.randint(1, 5, ())) for _ in range(3))
    bridge = CASES[case]["bridge"]
    shapes = ((DIM,), (height * width, DIM), (bridge, DIM))
    found = [F.normalize(torch.randn(s, dtype=torch.double), dim=-1) for s in shapes]
    text = words(classes).double()
    queries, patches, described = model.aligned(
        Encoded(*(f[None] for f in found)), text, (height, width)
    )
    want = naive_alignment(model, found, text, (height, width))
    for ours, theirs in zip((queries, patches, described), want, strict=True):
        torch.testing.assert_close(ours[0], theirs, rtol=1e-9, atol=1e-10)
    decoded = model.decoder(queries, patches)
    for ours, theirs in zip(decoded, naive_decoder(model.decoder, *want[:2]), strict=True):
        torch.testing.assert_close(ours[0], theirs, rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_logits_are_means_over_regions_of_inner_products():
    """Eq. 8, from queries and patches as they come out of the decoder."""
    model = student().double()
    found = model(images(32, 40).double(), words().double())
    assert found.logits.shape == (2, 5, 4, 5)
    for b, c, n in ((0, 0, 0), (1, 4, 19), (1, 2, 7)):
        each = [found.queries[b, m * 5 + c] @ found.patches[b, n] for m in range(4)]
        assert float(found.logits[b, c].flatten()[n]) == pytest.approx(
            float(sum(each) / 4), abs=1e-12
        )


@torch.no_grad()
def test_equal_descriptors_give_the_output_of_one():
    """Where all regions say the same, M of them are one."""
    many, one = student(bridge=4, fuse=["cls"]), student(bridge=1, fuse=["cls"])
    one.load_state_dict(many.state_dict())
    cls, patches = (F.normalize(torch.randn(2, *s), dim=-1) for s in ((DIM,), (16, DIM)))
    results = []
    for model, count in ((many, 4), (one, 1)):
        same = cls[:, None].expand(-1, count, -1)
        queries, aligned, _ = model.aligned(Encoded(cls, patches, same), words(), (4, 4))
        queries, aligned = model.decoder(queries, aligned)
        logits = (queries @ aligned.mT).unflatten(1, (count, 5)).mean(1)
        results.append(logits)
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


# ----------------------------------------------------------------- what is trained, and what it costs


def test_only_prompts_norm_alignment_and_decoder_learn():
    """And with `bridge_update` the bridge; the tower stays as it is, bit for bit, through ten steps."""
    for trained in (False, True):
        model = student(bridge_update=trained).train()
        with torch.no_grad():  # else what stands before a zero gets no gradient in the first step
            for layer in model.decoder.patch_layers:
                layer.linear2.weight.normal_(std=0.1)
        frozen = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("backbone.")}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(10):
            optimizer.zero_grad()
            model(images(32, 32), words()).logits.square().mean().backward()
            optimizer.step()
        learnt = {n.partition(".")[0] for n, p in model.named_parameters() if p.grad is not None}
        own = {"prompts", "prompt_project", "prompt_norm", "fuse", "query", "decoder"}
        assert learnt == own | ({"bridge_tokens"} if trained else set())
        assert all(torch.equal(model.state_dict()[k], v) for k, v in frozen.items())


def test_without_prompts_the_tower_needs_no_gradient():
    model = student(prompts=0).train()
    assert not any(f.requires_grad for f in model.encode(images(32, 32)))


def test_images_are_normalised_as_the_setting_says():
    assert student().mean[0] == pytest.approx(123.675 / 255)
    assert student(normalisation="clip").mean == (0.5, 0.5, 0.5)


SIZES = [(10, 20.910, 28.528), (100, 21.740, 29.358)]


@pytest.mark.parametrize(("prompts", "own", "training"), SIZES)
def test_it_has_the_parameters_of_the_paper(prompts, own, training):
    cost = student_cost("prompted-clip", settings=[f"prompts={prompts}"])
    assert round(cost.parameters / 1e6, 3) == own
    assert round(cost.training_parameters / 1e6, 3) == training
    assert cost.frozen_parameters == 86_192_640


TABLE_6 = [(1, 119.8), (4, 121.2), (16, 126.7), (64, 148.9), (256, 238.2)]


@pytest.mark.parametrize(("bridge", "published"), TABLE_6)
def test_it_costs_what_table_6_says(bridge, published):
    settings = ["prompts=10", f"bridge={bridge}", "classes=20"]
    assert student_cost("prompted-clip", settings=settings).gflops == pytest.approx(
        published, rel=0.01
    )


def test_settings_that_no_student_has_are_refused():
    with pytest.raises(ConfigError, match="classes=0: expected a whole number from 1 to"):
        student_cost("prompted-clip", settings=["classes=0"])
    with pytest.raises(ConfigError, match="unknown key 'bridges'; nearest is 'bridge'"):
        student_cost("prompted-clip", settings=["bridges=4"])


@pytest.mark.parametrize("bridge", [9, 4096])
def test_a_bridge_that_no_view_of_this_size_could_train_is_not_counted(bridge):
    with pytest.raises(ConfigError) as error:
        student_cost("prompted-clip", settings=[f"bridge={bridge}"])
    assert f"method.bridge={bridge}: " in error.value.what
    assert "do not divide the 32 x 32 patches of a view of 512 pixels" in error.value.what
    assert student_cost("prompted-clip", size=48, settings=["bridge=9"]).gflops > 4
    assert student_cost("prompted-clip", size=100).gflops > 5


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bridge": 5}, "bridge=5 is no square number"),
        ({"bridge": 0}, "bridge=0 leaves no regions"),
        ({**PLAIN, "bridge_update": True}, "bridge_update has no effect"),
        ({"fuse": ["cls", "cls"]}, "fuse names one thing twice"),
        ({"heads": 5}, "heads=5 does not divide the width 12"),
        ({"prompts": -1}, "prompts: "),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(settings, says):
    with pytest.raises(ConfigError) as error:
        student(**settings)
    assert says in error.value.what
    assert "\n" not in error.value.what


def test_weights_from_elsewhere_are_refused():
    with pytest.raises(ConfigError, match="takes its tower from the cache"):
        create("prompted-clip", 512, "weights.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["tok", "avg"])
@torch.no_grad()
def test_an_exported_program_takes_batches_and_images_of_any_size(pool):
    rows, columns = (32 * torch.export.Dim(name) for name in ("rows", "columns"))
    model = Classifier(student(openai_tower(pool)), words())
    free = ({0: torch.export.Dim("batch"), 2: rows, 3: columns},)
    program = torch.export.export(model, (images(96, 128),), dynamic_shapes=free).module()
    for count, size in ((1, (64, 160)), (3, (32 * 4, 32 * 3))):
        asked = images(*size, count=count)
        torch.testing.assert_close(program(asked), model(asked), rtol=1e-4, atol=1e-5)


def test_dropout_is_as_the_setting_says():
    """Off, two passes in training are one, and the recovery decoder is the student's kind."""
    for share, same in ((0.0, True), (0.1, False)):
        model = student(dropout=share).train()
        first, second = (model(images(32, 32), words()).logits for _ in range(2))
        assert torch.equal(first, second) == same
        decoder = RecoveryDecoder(DIM, 3, 20, 1, share).train()
        first, second = (decoder(torch.ones(1, 2, DIM), torch.ones(1, 3, DIM)) for _ in range(2))
        assert torch.equal(first[1], second[1]) == same


def test_a_decoder_of_no_layers_changes_nothing():
    decoder = TwoStreamDecoder(DIM, 3, 20, 0, 0.0)
    queries, patches = torch.randn(2, 4, DIM), torch.randn(2, 7, DIM)
    assert all(map(torch.equal, decoder(queries, patches), (queries, patches)))


@pytest.mark.slow
class TestPromptedCLIP(StudentContract):
    idle = r"decoder\.patch_layers\.\d\.linear1"  # what stands before a zero, in the first step

    def name(self):
        return "prompted-clip"
