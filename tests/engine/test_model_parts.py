"""Other pipeline classes, ControlNets and LoRA files of a study: pictures of plain diffusers, and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from engine.cache.connection import reading
from engine.errors import LabError, StudyError
from engine.passes.run import run_study
from engine.sampling.building import build_scheduler
from engine.sampling.equipping import equip
from engine.sampling.image_pass import sample_cells
from engine.sampling.models import Model, load
from engine.study.cells import Cell, cells
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import parse_lane
from engine.study.model_parts import ModelParts, PartFile, equipped
from engine.study.pipeline_settings import PipelineSettings
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine import family_miniatures as families
from tests.engine.helpers import ask
from tests.engine.miniature_parts import stirred
from tests.engine.miniatures import PIXELS, picture_of
from tests.engine.test_family_parity import GUIDANCE, Case, made_both_ways, sampled

CALL: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "np"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    families.picture().save(tmp_path / "photo.png")
    mask = np.zeros((64, 64), dtype="uint8")
    mask[16:48, 16:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def study_of(sd_folder: Path, files: Path, **pipeline: Any) -> Any:
    return parse_study(
        {
            "name": "parts",
            "model": str(sd_folder),
            "prompts": ["red apple", "owl"],
            "seeds": [3, 4],
            "guidance_scale": 4.0,
            "dtype": "float32",
            "lanes": ["ddim:5", "dpmpp_2m:5"],
            "pipeline": pipeline,
        },
        folder=files,
    )


def compared(study: Any, plain: Any, **more: Any) -> None:
    """Every cell of a study against calls of a plain pipeline, merged and alone."""
    source = equipped(find_model(study.model), study.pipeline.parts)
    model, every = load(source, "cpu", "float32"), cells(study, source, "cpu")
    for max_batch in (8, 1):
        for sample in sample_cells(model, every, FrameSettings(count=0), max_batch):
            assert sample.error is None
            plain.scheduler = build_scheduler(sample.cell.lane, find_model(study.model).scheduler_config)
            generator = torch.Generator().manual_seed(sample.cell.seed)
            expected = plain(sample.cell.prompt, generator=generator, **CALL, **more).images[0]
            difference = picture_of(sample) - (np.asarray(expected) * 255).round().astype(int)
            assert np.abs(difference).max() <= 1


def plain_of(sd_folder: Path, kind: str, **more: Any) -> Any:
    base = diffusers.StableDiffusionPipeline.from_pretrained(sd_folder)
    pipe: Any = getattr(diffusers, kind).from_pipe(base, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_img2img_starts_from_the_picture(sd_folder: Path, files: Path) -> None:
    kind = "StableDiffusionImg2ImgPipeline"
    study = study_of(sd_folder, files, image="photo.png", strength=0.6, **{"class": kind})
    compared(study, plain_of(sd_folder, kind), image=families.picture(), strength=0.6)


def test_inpainting_blends_with_the_encoding_of_each_seed(sd_folder: Path, files: Path) -> None:
    kind = "StableDiffusionInpaintPipeline"
    study = study_of(sd_folder, files, image="photo.png", mask_image="mask.png", **{"class": kind})
    more = {"image": families.picture(), "mask_image": Image.open(files / "mask.png"), "width": 64, "height": 64}
    compared(study, plain_of(sd_folder, kind), **more)


def test_a_controlnet_steers_the_denoiser(sd_folder: Path, files: Path) -> None:
    unet = diffusers.UNet2DConditionModel.from_pretrained(sd_folder / "unet")
    net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    with torch.no_grad():
        for part in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(part.weight, std=0.1)
    net.save_pretrained(files / "net")
    kind = "StableDiffusionControlNetPipeline"
    study = study_of(sd_folder, files, image="photo.png", controlnet="net", **{"class": kind})
    net = diffusers.ControlNetModel.from_pretrained(files / "net")
    compared(study, plain_of(sd_folder, kind, controlnet=net), image=families.picture())
    weights = files / "net" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))  # as hubs have them
    again = study_of(sd_folder, files, image="photo.png", controlnet="net", **{"class": kind})
    source = equipped(find_model(again.model), again.pipeline.parts)
    loaded: Any = load(source, "cpu", "float32").pipe
    torch.testing.assert_close(loaded.controlnet.state_dict(), net.state_dict())


STEERED = {"flux": "FluxControlNetPipeline", "sd3": "StableDiffusion3ControlNetPipeline"}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
@pytest.mark.parametrize("key", STEERED)
def test_controlnets_of_flows_take_a_control_image(key: str, files: Path) -> None:
    base: Any = families.built(key, **({"layers": 2} if key == "sd3" else {}))  # nothing steers the last layer
    net: Any = {"flux": diffusers.FluxControlNetModel, "sd3": diffusers.SD3ControlNetModel}[key]
    size = {"attention_head_dim": 16, "num_attention_heads": 2} if key == "flux" else {}
    more = {"num_single_layers": 1} if key == "flux" else {"num_extra_conditioning_channels": 0}
    steering = net.from_transformer(base.transformer, num_layers=1, load_weights_from_transformer=False, **size, **more)
    stirred(steering).save_pretrained(files / "net")
    pipe = equip(base, ModelParts(STEERED[key], PartFile(str(files / "net"), "digest")), torch.float32)
    families.picture().save(files / "control_image.png")
    plain = {"name": "s", "prompts": ["owl"], "lanes": ["ddim:3"], "pipeline": {"control_image": "control_image.png"}}
    settings = parse_study(plain, folder=files).pipeline
    every = [
        Cell(lane, "red apple", seed, "", GUIDANCE, PIXELS, PIXELS, "float32", key, "code", settings)
        for lane in (parse_lane("unipc:4"), parse_lane("flow_euler:3"))
        for seed in (0, 1)
    ]
    model = Model(find_model("gaussian"), pipe, "cpu")
    case = Case(key, pipe, every, sampled(model, every, 8), sampled(model, every, 1))
    for cell, sample, expected in made_both_ways(case):
        assert sample.nfe == expected.calls
        assert np.abs(picture_of(sample) - expected.pictures[0][0]).max() <= 1
        unsteered = replace(cell, pipeline=PipelineSettings())
        assert np.abs(Case(key, base, [], {}, {}).plain(unsteered).pictures - expected.pictures).max() > 10


def write_lora(sd_folder: Path, file: Path, seed: int = 0) -> Path:
    """LoRA weights of rank 2 for every attention of the unet, in the format of diffusers."""
    generator = torch.Generator().manual_seed(seed)
    unet = diffusers.UNet2DConditionModel.from_pretrained(sd_folder / "unet")
    layers = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            layers[f"{name}.lora_A.weight"] = torch.randn(2, module.in_features, generator=generator) * 0.5
            layers[f"{name}.lora_B.weight"] = torch.randn(module.out_features, 2, generator=generator) * 0.5
    diffusers.StableDiffusionPipeline.save_lora_weights(file.parent, unet_lora_layers=layers, weight_name=file.name)
    return file


def test_lora_files_change_the_model_and_its_identity(sd_folder: Path, files: Path) -> None:
    pytest.importorskip("peft")
    write_lora(sd_folder, files / "style.safetensors")
    study = study_of(sd_folder, files, lora=["style.safetensors:0.8"])
    plain = diffusers.StableDiffusionPipeline.from_pretrained(sd_folder)
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(files, weight_name="style.safetensors", adapter_name="style")
    plain.set_adapters(["style"], adapter_weights=[0.8])
    compared(study, plain, width=64, height=64)
    identities = {
        equipped(find_model(str(sd_folder)), study_of(sd_folder, files, **table).pipeline.parts).fingerprint
        for table in ({}, {"lora": ["style.safetensors:0.8"]}, {"lora": ["style.safetensors"]})
    }
    assert len(identities) == 3
    before = equipped(find_model(str(sd_folder)), study.pipeline.parts).fingerprint
    write_lora(sd_folder, files / "style.safetensors", seed=1)
    again = study_of(sd_folder, files, lora=["style.safetensors:0.8"])
    assert equipped(find_model(str(sd_folder)), again.pipeline.parts).fingerprint != before


def test_a_study_from_a_picture_runs_from_end_to_end(sd_folder: Path, files: Path) -> None:
    kind = "StableDiffusionImg2ImgPipeline"
    study = study_of(sd_folder, files, image="photo.png", strength=0.6, timing=1, **{"class": kind})
    with pytest.raises(StudyError, match="takes no 'timing'"):
        run_study(study, files / "c.duckdb", device="cpu")
    plain = study_of(sd_folder, files, image="photo.png", strength=0.6, **{"class": kind})
    assert plain.spec()["pipeline"]["image"]["file"] == "photo.png"
    assert run_study(plain, files / "c.duckdb", device="cpu").done == 8
    assert run_study(plain, files / "c.duckdb", device="cpu").done == 0
    with reading(files / "c.duckdb") as db:
        assert db.execute("SELECT DISTINCT family FROM models").fetchall() == [(kind,)]


def test_pictures_have_the_size_of_the_image_where_the_pipeline_takes_no_other(sd_folder: Path, files: Path) -> None:
    families.picture().resize((70, 50)).save(files / "photo.png")
    kind = "StableDiffusionImg2ImgPipeline"
    study = study_of(sd_folder, files, image="photo.png", strength=0.6, **{"class": kind})
    assert run_study(study, files / "c.duckdb", device="cpu").done == 8
    for table in ("trajectories", "frames", "timings"):
        assert ask(files / "c.duckdb", f"SELECT DISTINCT width, height FROM {table}") == [(64, 48)]
    compared(study, plain_of(sd_folder, kind), image=families.picture().resize((70, 50)), strength=0.6)
    with pytest.raises(StudyError, match=r"of the size of its image, here 64 x 48; leave out width and height"):
        run_study(replace(study, width=64, height=64), files / "c.duckdb", device="cpu")


def test_a_strength_that_leaves_no_step_is_refused_before_any_work(sd_folder: Path, files: Path) -> None:
    kind = "StableDiffusionImg2ImgPipeline"
    study = study_of(sd_folder, files, image="photo.png", strength=0.1, **{"class": kind})
    with pytest.raises(StudyError, match=r"Lane 'ddim:5': .* takes no step at all; give more steps"):
        run_study(study, files / "c.duckdb", device="cpu")
    assert not (files / "c.duckdb").exists()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"class": "os.system"}, "must name a diffusers pipeline class"),
        ({"class": "StableDifusionPipeline"}, "has no pipeline class"),
        ({"controlnet": "net"}, "needs a class"),
        ({"controlnet": "nowhere", "class": "StableDiffusionControlNetPipeline"}, "neither a folder"),
        ({"lora": ["style.bin"]}, "should read 'file.safetensors'"),
        ({"lora": ["nowhere.safetensors:0.5"]}, "there is no file"),
        ({"class": "StableDiffusionImg2ImgPipeline"}, 'image = "picture.png"'),
    ],
)
def test_parts_that_make_no_sense_are_refused_before_any_work(
    table: dict[str, Any], told: str, sd_folder: Path, files: Path
) -> None:
    with pytest.raises(LabError, match=told):
        run_study(study_of(sd_folder, files, **table), files / "c.duckdb", device="cpu")
    assert not (files / "c.duckdb").exists()
