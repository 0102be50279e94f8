"""Metrics that ask networks from elsewhere: the real loading code on small networks made here, without a network."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.measuring import clip, inception, learned
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.measuring.metrics import METRICS
from engine.study.reference import ReferenceSettings
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine.test_metrics import write_clip

KEYS = ("lpips", "pick_score", "aesthetic")
GAUSSIAN = find_model("gaussian")
REFERENCE = parse_study({"name": "s", "prompts": ["disc"], "lanes": ["ddim:5"], "reference": {}}).reference


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """A model in a folder, an empty hub cache, an empty download cache of torch, and a reference."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert isinstance(REFERENCE, ReferenceSettings)
    return Subject(dataclasses.replace(GAUSSIAN, kind="folder", folder=tmp_path), REFERENCE)


@pytest.fixture
def hub(tmp_path, monkeypatch, subject):
    """A hub cache: repositories by id, each a folder."""
    there: dict[str, Path] = {}

    def look_up(repo, name):
        found = there.get(repo, tmp_path / "nothing") / name
        return str(found) if found.is_file() else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look_up)
    return there


def cell(subject, frames=1, prompt="red apple", side=64):
    pictures = np.random.default_rng(5).integers(0, 256, (2, frames, side, side, 3), dtype=np.uint8)
    return Evidence(subject, prompt, 0, pictures[0], np.zeros((4, 8, 8), np.float32), pictures[1])


def test_what_is_missing_is_named_with_the_way_to_get_it(subject, monkeypatch):
    monkeypatch.setattr(learned, "find_spec", lambda name: None)
    reasons = {}
    for key in KEYS:
        with pytest.raises(Unmeasurable, match=r"^not available: ") as caught:
            METRICS[key].full_version(subject)
        reasons[key] = str(caught.value)
    assert "`pip install torchmetrics torchvision`" in reasons["lpips"]
    assert "`hf download yuvalkirstain/PickScore_v1 config.json model.safetensors`" in reasons["pick_score"]
    assert "`hf download trl-lib/ddpo-aesthetic-predictor aesthetic-model.pth`" in reasons["aesthetic"]
    monkeypatch.setattr(learned, "find_spec", lambda name: name)
    with pytest.raises(Unmeasurable, match=r"LPIPS needs .*alexnet-owt-7be5be79.pth; run `curl .*"):
        METRICS["lpips"].full_version(subject)


def test_patterns_of_the_gaussian_model_are_refused(subject):
    for key in KEYS:
        with pytest.raises(Unmeasurable, match="no network was trained on the patterns"):
            METRICS[key].full_version(dataclasses.replace(subject, model=GAUSSIAN))


def test_weights_under_the_name_of_others_are_refused(subject, monkeypatch):
    monkeypatch.setattr(learned, "find_spec", lambda name: name)
    write_checkpoint(learned.ALEXNET, {"features.0.weight": torch.zeros(1)})
    with pytest.raises(
        Unmeasurable, match="damaged or a different file; remove it and download it from https://download"
    ):
        METRICS["lpips"].full_version(subject)


def write_checkpoint(name, state):
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def alexnet():
    """The convolutions of AlexNet as in torchvision."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )


def test_lpips_is_the_formula_of_the_paper_on_the_layers_of_alexnet(subject, monkeypatch):
    """Torchmetrics as it is, but for the network it takes from torchvision: ours has random weights, from the file."""
    lpips_module = pytest.importorskip("torchmetrics.functional.image.lpips")
    torch.manual_seed(0)
    network = alexnet()
    path = write_checkpoint(learned.ALEXNET, network.state_dict())
    monkeypatch.setattr(learned, "find_spec", lambda name: name)
    monkeypatch.setattr(clip, "digest", lambda file: "7be5be79")

    def from_file(name, pretrained=False):
        assert (name, pretrained) == ("alexnet", True)
        loaded = alexnet()
        loaded.load_state_dict(torch.load(path, weights_only=True))
        return loaded

    monkeypatch.setattr(lpips_module, "_get_tv_model_features", from_file)
    monkeypatch.setattr("torchmetrics.image.lpip._TORCHVISION_AVAILABLE", True)
    learned._lpips.cache_clear()
    assert "@dpmpp_2m_karras:100|heun:50|0.05@alexnet 7be5be79, torchmetrics" in METRICS["lpips"].full_version(subject)
    found = cell(subject, frames=2)
    linear = torch.load(Path(lpips_module.__file__).parent / "lpips_models" / "alex.pth", "cpu", weights_only=True)
    expected = []
    for pair in zip(found.pictures, found.reference_pictures, strict=True):
        layers = [unit_layers(network.double(), picture) for picture in pair]
        expected.append(
            sum(
                float(functional.conv2d((x - y) ** 2, linear[f"lin{number}.model.1.weight"].double()).mean())
                for number, (x, y) in enumerate(zip(*layers, strict=True))
            )
        )
    assert METRICS["lpips"].value(found) == pytest.approx(np.mean(expected), rel=1e-4)
    same = dataclasses.replace(found, reference_pictures=found.pictures)
    assert METRICS["lpips"].value(same) == 0
    assert METRICS["lpips"].value(found) == pytest.approx(np.mean(expected), rel=1e-4), "nothing is carried over"
    with pytest.raises(Unmeasurable, match="at least 32"):
        METRICS["lpips"].value(cell(subject, side=24))
    with pytest.raises(Unmeasurable, match="no reference"):
        METRICS["lpips"].value(dataclasses.replace(found, reference_pictures=None))
    learned._lpips.cache_clear()


def unit_layers(network, picture):
    """What stands behind each rectification, channels at unit length."""
    shift, scale = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )
    x = (torch.from_numpy(picture.copy()).permute(2, 0, 1).double() / 127.5 - 1 - shift) / scale
    found, x = [], x[None]
    with torch.no_grad():
        for layer in network:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x / x.norm(dim=1, keepdim=True))
    return found


def test_pick_score_is_the_logit_of_its_clip_with_the_tokenizer_of_another_repository(subject, hub, tmp_path):
    from transformers import CLIPModel, CLIPTokenizer

    from engine.measuring.clip_model import OPENAI_MEAN, OPENAI_STD

    whole = write_clip(tmp_path / "whole")
    for repo, files in ((learned.PICK_MODEL, learned.PICK_FILES), (learned.PICK_TOKENIZER, learned.TOKENIZER_FILES)):
        hub[repo] = tmp_path / repo.replace("/", "--") / "snapshots" / "abc"
        hub[repo].mkdir(parents=True)
        for name in files:
            (hub[repo] / name).write_bytes((whole / name).read_bytes())
    found = cell(subject, frames=2, side=32)
    model, tokenizer = CLIPModel.from_pretrained(whole).eval(), CLIPTokenizer.from_pretrained(whole)
    values = (found.pictures / 255 - OPENAI_MEAN) / OPENAI_STD
    with torch.no_grad():
        logits = model(
            input_ids=tokenizer(["red apple"], return_tensors="pt").input_ids,
            pixel_values=torch.from_numpy(values).permute(0, 3, 1, 2).float(),
        ).logits_per_image
    assert METRICS["pick_score"].value(found) == pytest.approx(float(logits.mean()), rel=1e-4)
    version = METRICS["pick_score"].full_version(subject)
    assert version == f"1@{learned.PICK_MODEL} {clip.digest(whole / 'model.safetensors')}"
    (hub[learned.PICK_TOKENIZER] / "tokenizer.json").unlink()
    with pytest.raises(Unmeasurable, match="hf download laion/CLIP-ViT-H-14"):
        METRICS["pick_score"].full_version(subject)


def test_the_aesthetic_score_is_that_of_its_layers_on_the_vector_of_clip(subject, hub, tmp_path):
    from engine.measuring.clip_model import ClipModel

    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(16, 12), nn.Dropout(0.2), nn.Linear(12, 7), nn.Dropout(0.1), nn.Linear(7, 1))
    hub[learned.AESTHETIC_MODEL] = tmp_path / "head"
    (tmp_path / "head").mkdir()
    state = {f"layers.{key}": value for key, value in layers.state_dict().items()}
    torch.save(state, tmp_path / "head" / learned.AESTHETIC_FILE)
    with pytest.raises(Unmeasurable, match="hf download openai/clip-vit-large-patch14"):
        METRICS["aesthetic"].full_version(subject)
    folder = hub[learned.AESTHETIC_CLIP] = write_clip(tmp_path / "models--openai--large" / "snapshots" / "abc")
    found = cell(subject, frames=3)
    with torch.no_grad():
        expected = layers.eval()(torch.from_numpy(ClipModel(folder).pictures(found.pictures))).mean()
    assert METRICS["aesthetic"].value(found) == pytest.approx(float(expected), rel=1e-5)
    assert METRICS["aesthetic"].full_version(subject).count("@") == 1


def test_a_head_that_holds_code_is_not_run(subject, hub, tmp_path):
    hub[learned.AESTHETIC_MODEL] = tmp_path
    hub[learned.AESTHETIC_CLIP] = write_clip(tmp_path / "models--openai--large" / "snapshots" / "abc")
    torch.save({"layers.0.weight": Path("not a tensor")}, tmp_path / learned.AESTHETIC_FILE)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        METRICS["aesthetic"].value(cell(subject))


def test_large_files_of_the_hub_are_named_by_their_digest_and_not_read(tmp_path):
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert clip.digest(link) == "abababab"
    plain = tmp_path / "plain"
    plain.write_bytes(b"weights")
    assert clip.digest(plain) == "9a129038"


def test_inception_takes_bytes_and_gives_its_last_layer(subject, monkeypatch):
    """The loading code with a network of the test in the place of torch-fidelity's."""
    torch.manual_seed(2)
    made = {}

    class Extractor(nn.Module):
        def __init__(self, name, features_list, feature_extractor_weights_path):
            super().__init__()
            self.weight = nn.Parameter(torch.load(feature_extractor_weights_path, weights_only=True)["weight"])
            made.update(features=features_list)

        def forward(self, pictures):
            assert pictures.dtype == torch.uint8
            return (pictures.float().mean((2, 3)) @ self.weight,)

    module = type("module", (), {"FeatureExtractorInceptionV3": Extractor})
    monkeypatch.setitem(sys.modules, "torch_fidelity", type("package", (), {"__path__": []}))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    monkeypatch.setattr(clip, "digest", lambda file: "6726825d")
    weight = torch.randn(3, 5)
    write_checkpoint(inception.WEIGHTS, {"weight": weight})
    inception._network.cache_clear()
    pictures = cell(subject, frames=4).pictures
    vectors = inception.vectors(subject, pictures)
    np.testing.assert_allclose(vectors, pictures.mean((1, 2)) @ weight.numpy(), rtol=1e-4)
    assert made["features"] == ["2048"]
    inception._network.cache_clear()
