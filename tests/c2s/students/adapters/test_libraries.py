"""Names, weights and normalisation of each library; nothing here needs a network."""

from __future__ import annotations

import json
import sys

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file
from transformers import AutoModelForSemanticSegmentation, SegformerConfig

from c2s.students import create
from c2s.students.adapters.timm import _runs
from c2s.students.adapters.torchvision import JointLRASPPHead
from c2s_cache.errors import ConfigError, MissingExtra

DIM = 6
SMP, TIMM = "smp:fpn/mobilenet_v2", "timm:test_convnext"
TORCHVISION = "torchvision:lraspp_mobilenet_v3_large"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small SegFormer of 7 classes with random weights, and an image processor that takes blue first."""
    path = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_labels=7
    )
    AutoModelForSemanticSegmentation.from_config(config).save_pretrained(path)
    processor = {
        "image_processor_type": "SegformerImageProcessor",
        "do_rescale": True,
        "rescale_factor": 1 / 127.5,
        "do_normalize": True,
        "image_mean": [1.0, 1.25, 1.5],
        "image_std": [0.5, 0.25, 0.125],
        "do_flip_channel_order": True,
    }
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def offset(module):
    """Its tensors, told from fresh ones by being larger by 1."""
    return {k: v + 1 if v.is_floating_point() else v for k, v in module.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.model."])
def test_smp_takes_an_encoder_file(tmp_path, prefix):
    state = offset(create(SMP, DIM).backbone)
    file = str(tmp_path / "encoder.safetensors")
    save_file({prefix + k: v for k, v in state.items()} | {"head.weight": torch.ones(1)}, file)
    student = create(SMP, DIM, file)
    for name, value in student.backbone.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state[name]), name


def test_timm_takes_a_file_of_the_whole_encoder_and_refuses_another(tmp_path):
    whole = timm.create_model("test_convnext")
    file = str(tmp_path / "model.safetensors")
    state = {k: torch.full_like(v, 0.25) for k, v in whole.state_dict().items()}
    save_file(state, file)
    student = create(TIMM, DIM, file)
    assert all((p == 0.25).all() for p in student.backbone.parameters())
    assert "state_dict" not in student.backbone.pretrained_cfg
    with pytest.raises(ConfigError, match=r"do not fit: \d+ of \d+ tensors differ, first stem"):
        create("timm:test_convnext2", DIM, file)


def test_torchvision_takes_a_file_of_the_backbone(tmp_path):
    whole = torchvision.models.mobilenet_v3_large()
    state = offset(whole)
    file = str(tmp_path / "mobilenet.safetensors")
    save_file(state, file)
    student = create(TORCHVISION, DIM, file)
    for name, value in student.backbone.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state[f"features.{name}"]), name


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["pretrained", "COCO_WITH_VOC_LABELS_V1"])
def test_torchvision_weights_fill_all_but_the_classifier(monkeypatch, weights):
    asked = []

    def download(url, **options):
        asked.append((url, options["weights_only"], options["check_hash"]))
        with torch.random.fork_rng():
            if weights == "pretrained":
                return offset(torchvision.models.mobilenet_v3_large())
            model = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
                weights=None, weights_backbone=None, aux_loss=True
            )
        return offset(model)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    torch.manual_seed(0)
    plain = create("torchvision:deeplabv3_mobilenet_v3_large", DIM)
    torch.manual_seed(0)
    student = create("torchvision:deeplabv3_mobilenet_v3_large", DIM, weights)
    changed = {
        k
        for k, v in student.state_dict().items()
        if v.is_floating_point() and not torch.equal(v, plain.state_dict()[k])
    }
    whole = {k for k, v in plain.state_dict().items() if v.is_floating_point()}
    kept = "model.classifier." if weights == "pretrained" else "model.classifier.4."
    assert changed == {k for k in whole if not k.startswith(kept)}
    assert [options for _, *options in asked] == [[True, True]]
    assert not any("aux" in k for k in whole)


def test_the_joint_head_is_torchvisions_lraspp_head():
    torch.manual_seed(0)
    head = torchvision.models.segmentation.lraspp.LRASPPHead(5, 7, DIM, 4).eval()
    maps = {"low": torch.randn(2, 5, 8, 12), "high": torch.randn(2, 7, 4, 6)}
    torch.testing.assert_close(JointLRASPPHead(head).eval()(maps), head(maps))


def test_hf_takes_architecture_weights_and_normalisation_from_a_folder(folder):
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    student = create(f"hf:{folder}", DIM, "pretrained")
    ours = student.model.state_dict()
    different = {
        k for k, v in model.state_dict().items() if not torch.equal(v, ours[k].resize_(v.shape))
    }
    assert {k.rpartition(".")[0] for k in different} == {"decode_head.classifier"}
    assert student.backbone is student.model.segformer
    assert student.input.bgr
    # (pixel / 127.5 - mean) / std, in pixel / 255, red first
    assert student.mean == pytest.approx((0.75, 0.625, 0.5))
    assert student.std == pytest.approx((0.0625, 0.125, 0.25))


def test_hf_is_made_again_from_what_it_says_of_itself(folder):
    student = create(f"hf:{folder}", DIM).eval()
    known = json.loads(json.dumps(student.architecture))
    again = create("hf:gone", DIM, "random", known).eval()
    assert again.input == student.input
    again.load_state_dict(student.state_dict())
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(student(x), again(x))
    # Another number of outputs is no part of it.
    assert create("hf:gone", 9, "random", known).dim == 9


def test_hf_weights_of_another_backbone_are_refused(folder, tmp_path):
    config = SegformerConfig.from_pretrained(folder, hidden_sizes=[8, 16, 24, 48])
    AutoModelForSemanticSegmentation.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"do not fit: the backbone lacks \d+ of \d+ tensors, first"
    ):
        create(f"hf:{folder}", DIM, str(tmp_path))


def test_hf_refuses_what_gives_no_class_per_cell(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mask2former"}))
    with pytest.raises(ConfigError, match=r"a mask2former gives masks of queries"):
        create(f"hf:{tmp_path}", DIM)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match=r"a bert gives"):
        create(f"hf:{tmp_path}", DIM)


def test_normalisation_is_the_librarys(monkeypatch):
    assert create("timm:test_vit", DIM).mean == (0.5, 0.5, 0.5)
    facts = {
        "input_space": "BGR",
        "input_range": [0, 255],
        "mean": [255.0, 127.5, 51.0],
        "std": [51.0, 102.0, 255.0],
    }
    monkeypatch.setattr(smp.encoders, "get_preprocessing_params", lambda *_: facts)
    monkeypatch.setattr(smp.encoders, "hf_hub_download", lambda *_, **__: "")
    monkeypatch.setattr(
        smp.encoders, "load_file", lambda *_, **__: create(SMP, DIM).backbone.state_dict()
    )
    student = create(SMP, DIM, "pretrained")
    assert student.mean == pytest.approx((0.2, 0.5, 1.0))
    assert student.std == pytest.approx((1.0, 0.4, 0.2))
    assert student.input.bgr
    # A run opens with what it was trained with, not with what the library would say now.
    assert (
        create(SMP, DIM, "random", json.loads(json.dumps(student.architecture))).input
        == student.input
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smp:unet", r"no student smp:unet; write smp:ARCHITECTURE/ENCODER, .*unet, .*dpt"),
        ("smp:vnet/resnet18", r"no student smp:vnet/resnet18"),
        ("smp:unet/resnet19", r"no encoder 'resnet19'\. Near it are resnet1"),
        ("smp:unet/tu-resnet19", r"smp:unet/tu-resnet19 cannot be made: .*resnet19"),
        ("timm:convnext_tinny", r"no encoder 'convnext_tinny'\. Near it are convnext_tiny"),
        ("timm:resnet18.nothing", r"timm:resnet18.nothing cannot be made: Invalid pretrained tag"),
        ("torchvision:resnet50", r"no student torchvision:resnet50; choose a model of deeplabv3"),
        ("python:plain_models", r"write python:MODULE:FUNCTION"),
        ("python:.x:f", r"write python:MODULE:FUNCTION"),
        ("python::f", r"write python:MODULE:FUNCTION"),
        ("python:a..b:f", r"write python:MODULE:FUNCTION"),
        ("python:nowhere:f", r"cannot be imported .No module named 'nowhere'.*importable .*runs"),
        ("python:plain_models:f", r"cannot be imported ..*no attribute 'f'"),
        ("python:math:sqrt", r"gave a float, expected a torch.nn.Module"),
        ("python:math:hypot2", r"cannot be imported"),
        ("python:os:getcwd", r"python:os:getcwd cannot be made: .*argument"),
        ("mmseg:x", r"no student 'mmseg:x'; write one of smp:ARCHITECTURE/ENCODER, hf:"),
        ("timm:", r"no student 'timm:'"),
    ],
)
def test_a_name_that_means_nothing_is_one_sentence(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create(name, DIM)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (SMP, "nothing", r"with weights 'nothing': Wrong pretrained weights"),
        (TIMM, "nothing", r"takes the weights pretrained, random or a file"),
        (TORCHVISION, "NOTHING", r"with weights 'NOTHING'"),
        ("python:plain_models:tokens", "x", r"takes no weights"),
    ],
)
def test_weights_that_do_not_exist_are_one_sentence(name, weights, message):
    with pytest.raises(ConfigError, match=message):
        create(name, DIM, weights)


@pytest.mark.parametrize("name", [SMP, TIMM, TORCHVISION])
def test_a_download_that_fails_is_one_sentence(name, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host\nand a traceback")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(ConfigError, match=r"with weights '\w+': no route to host$"):
        create(name, DIM, "pretrained")


@pytest.mark.parametrize("name", [SMP, TIMM, TORCHVISION])
def test_of_a_pickle_only_tensors_are_read(name, tmp_path):
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"neither safetensors nor a checkpoint of plain tensors"):
        create(name, DIM, str(tmp_path / "x.pth"))
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"do not fit: \d+ of \d+ tensors differ"):
        create(name, DIM, str(tmp_path / "x.pth"))


def test_a_missing_extra_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'c2s\[smp\]'"):
        create(SMP, DIM)


@pytest.mark.slow
def test_encoders_of_one_size_get_squares_of_it():
    encoder = "maxvit_rmlp_pico_rw_256"
    assert timm.get_pretrained_cfg(encoder).fixed_input_size
    with torch.device("meta"):
        student = create(f"timm:{encoder}", DIM).eval()
        assert student.input.side == 256
        assert student(torch.zeros(1, 3, 64, 96)).shape == (1, DIM, 64, 64)


def test_asking_an_encoder_for_its_sizes_leaves_it_as_it_is():
    encoder = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    assert _runs(encoder, 8, 8)
    assert not _runs(torch.nn.Linear(3, 3), 8, 8)
    assert encoder[0].num_batches_tracked == 0
    assert encoder[0].training


def test_maps_with_channels_last_are_turned():
    student = create("timm:test_mambaout", DIM).eval()
    x = torch.randn(1, 3, 64, 96)
    maps = [m.permute(0, 3, 1, 2) for m in student.backbone(x)]
    assert torch.equal(student(x), student.model.head(maps))
    assert student(x).shape == (1, DIM, 16, 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}, "cannot be made"),
        ({"attn_implementation": "someone/kernel"}, "the code of someone/kernel, which is never"),
    ],
)
def test_hf_refuses_a_model_that_brings_code_without_a_question(
    folder, tmp_path, monkeypatch, changes, message
):
    config = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ConfigError, match=message):
        create(f"hf:{tmp_path}", DIM)
    assert not ran.exists()


def test_whatever_a_module_does_while_it_is_imported_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, source, message in (
        ("unwritten", "def f(:", "invalid syntax"),
        ("unable", "raise OSError('no licence\\nhere')", "no licence"),
        ("quitter", "1 / 0", "division by zero"),
    ):
        (tmp_path / f"{name}.py").write_text(source)
        with pytest.raises(
            ConfigError, match=rf"{name}:f cannot be imported \({message}"
        ) as caught:
            create(f"python:{name}:f", DIM)
        assert "\n" not in str(caught.value)
