"""OpenAI's weights compute QuickGELU in whichever file they come, and nothing in a file is called."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY_MODEL
from safetensors.torch import save_file
from small_builds import made
from torch import nn

from c2s.datasets import load_dataset
from c2s_cache import C2SError, CacheError, ConfigError
from c2s_pipeline.build.builder import load_teacher as requested_teacher
from c2s_pipeline.build.request import make_manifest
from c2s_pipeline.build.rows import part_of
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.recorded import load_recorded, load_recorded_text, recorded_spec
from c2s_pipeline.teachers.registry import load_teacher
from c2s_pipeline.teachers.weights_file import OPENAI, packed_weights

NAME = "tiny-b-8"
pytestmark = pytest.mark.usefixtures("tiny_name")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def trained():
    """A CLIP with QuickGELU and weights large enough for the activation to matter."""
    torch.manual_seed(3)
    model = open_clip.model.CLIP(**TINY_MODEL, quick_gelu=True).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def entries() -> dict[str, torch.Tensor]:
    return dict(zip(OPENAI, (torch.tensor(32), torch.tensor(77), torch.tensor(49408)), strict=True))


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """The same weights as OpenAI publishes them, with and without its entries, by how they are packed."""
    folder, state = tmp_path_factory.mktemp("files"), trained.state_dict()
    published = open_clip.model.CLIP(**TINY_MODEL, quick_gelu=True).eval()
    published.load_state_dict(state)
    for name, value in entries().items():
        if hasattr(published, name):
            delattr(published, name)
        published.register_buffer(name, value)
    given = torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated, and tracing inexact
        torch.jit.save(torch.jit.script(published), folder / "scripted.pt")
        traced = torch.jit.trace(published, given, check_trace=False)
        torch.jit.save(traced, folder / "traced.pt")
    full = {**state, **entries()}
    torch.save(full, folder / "entries.pt")
    torch.save({"state_dict": full}, folder / "wrapped.pt")
    torch.save(full, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file({k: v.contiguous() for k, v in full.items()}, folder / "entries.safetensors")
    torch.save(state, folder / "plain.pt")
    return folder


def cls_by_hand(model: nn.Module, pixels: torch.Tensor, quick: bool) -> torch.Tensor:
    """CLS of a CLIP ViT, from its weights and torch's functions alone."""
    w = {k.removeprefix("visual."): v for k, v in model.state_dict().items() if "visual." in k}
    f = nn.functional

    def norm(x, name):
        return f.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    x = f.conv2d(pixels, w["conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], 1) + w["positional_embedding"]
    x = norm(x, "ln_pre")
    for layer in ("transformer.resblocks.0", "transformer.resblocks.1"):
        y = f.linear(
            norm(x, f"{layer}.ln_1"),
            w[f"{layer}.attn.in_proj_weight"],
            w[f"{layer}.attn.in_proj_bias"],
        )
        q, k, v = (part.unflatten(-1, (2, 32)).transpose(1, 2) for part in y.chunk(3, -1))
        mixed = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).flatten(2)
        x = x + f.linear(
            mixed, w[f"{layer}.attn.out_proj.weight"], w[f"{layer}.attn.out_proj.bias"]
        )
        y = f.linear(
            norm(x, f"{layer}.ln_2"), w[f"{layer}.mlp.c_fc.weight"], w[f"{layer}.mlp.c_fc.bias"]
        )
        y = y * torch.sigmoid(1.702 * y) if quick else f.gelu(y)
        x = x + f.linear(y, w[f"{layer}.mlp.c_proj.weight"], w[f"{layer}.mlp.c_proj.bias"])
    return norm(x[:, 0], "ln_post") @ w["proj"]


@pytest.mark.parametrize("name", [NAME, f"{NAME}-quickgelu"])
@pytest.mark.parametrize(
    "file",
    ["scripted.pt", "traced.pt", "entries.pt", "wrapped.pt", "old.pt", "entries.safetensors"],
)
def test_openais_weights_compute_quick_gelu_whatever_the_name(files, trained, name, file):
    teacher = load_teacher(TeacherSpec(name, str(files / file)))
    pixels = teacher.prepare(PIXELS)
    want, wrong = (cls_by_hand(trained, pixels, quick) for quick in (True, False))
    torch.testing.assert_close(teacher.embed_images(PIXELS), want, atol=1e-5, rtol=0)
    assert (want - wrong).abs().max() > 1e-3
    assert teacher.info().activation == "quick_gelu"
    assert teacher.notice is None


def test_a_plain_file_goes_by_the_name_and_says_so(files, trained, capsys):
    file = str(files / "plain.pt")
    for name, quick, said in (
        (NAME, False, f"computes GELU. For those of OpenAI, .* use --teacher {NAME}-quickgelu"),
        (f"{NAME}-quickgelu", True, f"computes QuickGELU, .*. For others use --teacher {NAME}"),
    ):
        teacher, spec = requested_teacher(made(teacher=name, pretrained=file))
        want = cls_by_hand(trained, teacher.prepare(PIXELS), quick)
        torch.testing.assert_close(teacher.embed_images(PIXELS), want, atol=1e-5, rtol=0)
        told = capsys.readouterr().err
        assert re.fullmatch(rf"note: .*{said}\.\n", told)
        assert spec.activation == ("quick_gelu" if quick else "gelu")
        load_teacher(spec)  # as a worker does
        assert capsys.readouterr().err == ""


def test_a_folder_may_hold_openais_file(files, trained, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_MODEL}))
    torch.save({**trained.state_dict(), **entries()}, tmp_path / "model.pth")
    teacher = load_teacher(TeacherSpec(f"local-dir:{tmp_path}", None))
    want = cls_by_hand(trained, teacher.prepare(PIXELS), quick=True)
    torch.testing.assert_close(teacher.embed_images(PIXELS), want, atol=1e-5, rtol=0)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_MODEL}))
    with pytest.raises(C2SError, match=r"pretrained weights .* could not be loaded"):
        load_teacher(TeacherSpec(f"local-dir:{tmp_path}", None))


def test_an_archive_is_read_as_torch_reads_it(files):
    for name in ("scripted.pt", "traced.pt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = torch.jit.load(files / name).state_dict()
        found = packed_weights(files / name)
        assert found is not None
        assert found.resolution == 32
        assert found.state.keys() == {k for k in want if k != "attn_mask"} - set(OPENAI)
        assert all(torch.equal(v, want[k]) for k, v in found.state.items())


def test_an_archive_that_is_not_openais_goes_by_the_name(trained, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(trained), tmp_path / "own.pt")
    teacher = load_teacher(TeacherSpec(NAME, str(tmp_path / "own.pt")))
    want = cls_by_hand(trained, teacher.prepare(PIXELS), quick=False)
    torch.testing.assert_close(teacher.embed_images(PIXELS), want, atol=1e-5, rtol=0)
    assert "computes GELU" in (teacher.notice or "")


def test_another_resolution_is_named(trained, tmp_path):
    wrong = entries() | {"input_resolution": torch.tensor(48)}
    torch.save({**trained.state_dict(), **wrong}, tmp_path / "large.pt")
    with pytest.raises(ConfigError, match=r"images of 48 pixels, tiny-b-8 takes 32"):
        load_teacher(TeacherSpec(NAME, str(tmp_path / "large.pt")))


class Runs:
    """Would leave a file behind if a pickle of it were opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("inner", ["archive", "checkpoint", "old"])
def test_nothing_in_a_file_is_called(files, tmp_path, inner):
    trace, file = tmp_path / "ran", tmp_path / "hostile.pt"
    pickled = pickle.dumps({"visual.proj": Runs(trace)}, protocol=2)
    if inner == "old":
        file.write_bytes(pickled)
    elif inner == "checkpoint":
        torch.save({**entries(), "visual.proj": Runs(trace)}, file)
    else:
        with zipfile.ZipFile(files / "scripted.pt") as good, zipfile.ZipFile(file, "w") as bad:
            for name in good.namelist():
                data = good.read(name)
                bad.writestr(name, pickled if name.endswith("/data.pkl") else data)
    with pytest.raises(C2SError, match=r"is no file of weights|which is no tensor") as caught:
        load_teacher(TeacherSpec(NAME, str(file)))
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_a_cut_archive_is_one_sentence(files, tmp_path):
    data = (files / "scripted.pt").read_bytes()
    for length in (len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        with pytest.raises(C2SError) as caught:
            load_teacher(TeacherSpec(NAME, str(tmp_path / "cut.pt")))
        assert "\n" not in str(caught.value)


def manifest(info, request=None):
    """The manifest of a Shapes cache by that teacher."""
    source = load_dataset("shapes").split("dev")
    asked = request or made(masks={"windows": (2, 3)})
    return make_manifest(source, asked, [part_of(source, source.ids[:4])], info)


def test_the_activation_is_part_of_what_a_cache_was_made_from(files):
    quick, plain = (
        load_teacher(TeacherSpec(NAME, str(files / f))).info() for f in ("entries.pt", "plain.pt")
    )
    assert (quick.activation, plain.activation) == ("quick_gelu", "gelu")
    assert quick.tower_digest != plain.tower_digest
    assert quick.text_digest != plain.text_digest
    ours = manifest(quick)
    other = manifest(plain.model_copy(update={"pretrained": quick.pretrained}))
    differ = {s for s in ours.stage_names if ours.fingerprints[s] != other.fingerprints[s]}
    assert differ == {"global_cls", "dense", "masks", "regions", "text"}


def test_a_recorded_teacher_is_loaded_with_its_activation(files):
    """The file that a user names need not tell it, and one that computes another is refused."""
    info = load_teacher(TeacherSpec(NAME, str(files / "entries.pt"))).info()
    recorded, plain = manifest(info), str(files / "plain.pt")
    found = load_recorded(recorded, recorded_spec(recorded, None, plain))
    assert load_recorded_text(info, plain).digest == info.text_digest
    assert found.info().activation == "quick_gelu"
    assert found.notice is None
    gelu = manifest(load_teacher(TeacherSpec(NAME, plain)).info())
    with pytest.raises(
        CacheError, match=r"has the digest .*, what was found as .*: other weights, or"
    ):
        load_recorded(gelu, recorded_spec(gelu, None, str(files / "entries.pt")))
    with pytest.raises(CacheError, match=r"text tower .* has the digest .*: other weights, or"):
        load_recorded_text(gelu.teacher, str(files / "entries.pt"))


def test_weights_beside_a_folder_are_refused(tiny_teacher):
    with pytest.raises(ConfigError, match="brings its own weights, so --pretrained random cannot"):
        requested_teacher(made(teacher=tiny_teacher, pretrained="random"))
