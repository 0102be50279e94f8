"""What plain diffusers loads of a folder is found, hashed and loaded, and nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from engine.errors import ModelError
from engine.sampling.hollow import hollow_pipeline
from engine.sampling.models import load
from engine.study.cells import picture_size
from engine.study.model_files import variant_of
from engine.study.source import find_model
from tests.engine.helpers import parsed

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def folder(sd_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd_folder, tmp_path / "model"))


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def as_variant(file: Path, variant: str, scale: float = 1.0, *, keep: bool = True) -> Path:
    """Writes a scaled copy of weights under the name of a variant."""
    target = file.with_name(file.name.replace(".safetensors", f".{variant}.safetensors"))
    save_file({name: tensor * scale for name, tensor in load_file(file).items()}, target, metadata={"format": "pt"})
    if not keep:
        file.unlink()
    return target


def loaded(folder: Path) -> Any:
    return load(find_model(str(folder)), "cpu", "float32").pipe


def fingerprint(folder: Path) -> str | None:
    return find_model(str(folder)).fingerprint


def test_a_part_that_is_never_loaded_does_not_block_the_model(folder: Path) -> None:
    """The safety checker of a hub folder may be pickled while all else is not."""
    rewrite(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "not_in_the_index").mkdir()
    (folder / "not_in_the_index" / "config.json").write_text("{}")
    (folder / "not_in_the_index" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    DiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None, use_safetensors=True)
    assert loaded(folder).safety_checker is None


def test_what_an_index_names_and_the_pipeline_does_not_take_is_neither_looked_for_nor_hashed(folder: Path) -> None:
    rewrite(
        folder / "model_index.json",
        watermarker=["some_package", "Watermarker"],
        motion_adapter=["diffusers", "MotionAdapter"],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    DiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None, use_safetensors=True)
    before = fingerprint(folder)
    (folder / "motion_adapter").mkdir()
    (folder / "motion_adapter" / "config.json").write_text("{}")
    (folder / "motion_adapter" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    assert fingerprint(folder) == before
    assert type(loaded(folder)).__name__ == "StableDiffusionPipeline"
    tried = hollow_pipeline(find_model(str(folder)))
    assert tried.components.keys() == loaded(folder).components.keys()


def test_a_mixture_of_variants_that_diffusers_does_not_load_is_refused_with_the_reason(folder: Path) -> None:
    as_variant(folder / TEXT, "bf16", keep=False)
    as_variant(folder / "vae" / "diffusion_pytorch_model.safetensors", "fp16", keep=False)
    with pytest.raises(OSError, match="no file named"):
        DiffusionPipeline.from_pretrained(folder, safety_checker=None, variant="fp16", use_safetensors=True)
    with pytest.raises(ModelError, match=r"of a variant that every other part has \(model\.bf16\.safetensors\)"):
        find_model(str(folder))


def test_a_pipeline_class_that_diffusers_lacks_is_refused_by_plan(folder: Path) -> None:
    rewrite(folder / "model_index.json", _class_name="StableDiffusion9Pipeline")
    with pytest.raises(ModelError, match=r"is a StableDiffusion9Pipeline, which diffusers \S+ doesn't have"):
        hollow_pipeline(find_model(str(folder)))


@pytest.mark.parametrize("variant", ["fp16", "bf16", "fp32", "non_ema", "mine"])
def test_a_folder_with_one_variant_only_loads_in_it(folder: Path, variant: str) -> None:
    for file in list(folder.glob("*/*.safetensors")):
        as_variant(file, variant, keep=False)
    index = json.loads((folder / "model_index.json").read_text())
    assert variant_of(folder, index) == variant
    assert type(loaded(folder)).__name__ == "StableDiffusionPipeline"


def test_the_files_that_load_are_the_files_that_are_hashed(folder: Path) -> None:
    """A text encoder in fp16 only makes diffusers take the fp16 unet, too, where there are both."""
    half = as_variant(folder / UNET, "fp16", scale=0.5)
    as_variant(folder / TEXT, "fp16", keep=False)
    before = fingerprint(folder)
    stored = load_file(half)["conv_in.weight"]
    torch.testing.assert_close(loaded(folder).unet.conv_in.weight, stored)
    as_variant(folder / UNET, "fp16", scale=0.25)
    assert fingerprint(folder) != before
    before = fingerprint(folder)
    save_file({name: t * 3 for name, t in load_file(folder / UNET).items()}, folder / UNET, {"format": "pt"})
    assert fingerprint(folder) == before, "the plain unet is not loaded"


def test_weights_under_another_name_are_no_weights(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "ema.safetensors")
    with pytest.raises(ModelError, match=r"has no weights .*ema\.safetensors"):
        find_model(str(folder))


def test_a_model_saved_without_an_optional_part_loads(folder: Path) -> None:
    rewrite(folder / "model_index.json", image_encoder=[None, None], feature_extractor=[None, None])
    assert loaded(folder).image_encoder is None


def test_old_folders_are_seen_as_the_pipeline_mends_them(folder: Path) -> None:
    """Stable Diffusion of 2022: the constructor sets the offset and a sample size of 64."""
    scheduler = folder / "scheduler" / "scheduler_config.json"
    old = {key: value for key, value in json.loads(scheduler.read_text()).items() if key != "clip_sample"}
    scheduler.write_text(json.dumps(old | {"_class_name": "DDIMScheduler", "steps_offset": 0}))
    rewrite(folder / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    rewrite(folder / "unet" / "config.json", _diffusers_version="0.6.0", sample_size=16)
    source, pipe = find_model(str(folder)), loaded(folder)
    assert source.scheduler_config["steps_offset"] == pipe.scheduler.config.steps_offset == 1
    assert source.scheduler_config["clip_sample"] is pipe.scheduler.config.clip_sample is False
    assert picture_size(parsed(model=str(folder)), source) == (512, 512)
    assert pipe.unet.config.sample_size * pipe.vae_scale_factor == 512
