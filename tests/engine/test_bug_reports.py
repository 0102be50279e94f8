"""Reports of people who do this job with other tools, each with the value that is right."""

import copy
import inspect
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from engine.sampling.building import build_scheduler
from engine.sampling.calls import pipeline_arguments
from engine.sampling.image_pass import sample_cells
from engine.sampling.models import Model
from engine.sampling.recording import NoiseLevels
from engine.sampling.standins import with_parts
from engine.sampling.tokens import read_prompts
from engine.study.cells import Cell, cells
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import parse_lane
from engine.study.source import find_model
from tests.engine import family_miniatures as families
from tests.engine.helpers import parsed
from tests.engine.miniatures import PIXELS, SD_SCHEDULER, cells_of, picture_of

FOREIGN = [
    {"_class_name": "DEISMultistepScheduler", "algorithm_type": "deis", "solver_type": "logrho"},
    {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    {"_class_name": "SASolverScheduler", "algorithm_type": "data_prediction"},
    {"use_beta_sigmas": True},
    {"use_exponential_sigmas": True},
    {"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True},
    {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True},
    {"_class_name": "LMSDiscreteScheduler", "interpolation_type": "log_linear", "lower_order_final": False},
    {"_class_name": "KDPM2DiscreteScheduler", "predict_x0": False, "euler_at_final": True, "solver_order": 3},
]


PINNED = ["deis", "sa_solver", "unipc", "unipc_karras", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde", "euler", "heun"]


@pytest.mark.parametrize("config", FOREIGN, ids=lambda config: " ".join(map(str, config.values())))
@pytest.mark.parametrize("key", PINNED)
def test_switches_of_a_models_own_scheduler_do_not_reach_another(key: str, config: dict[str, Any]) -> None:
    """InvokeAI #6368, diffusers #9499: refused, or made another of, by a configuration written for another class."""
    foreign, plain = (build_scheduler(parse_lane(f"{key}:10"), SD_SCHEDULER | c) for c in (config, {}))
    for name in inspect.signature(type(plain).__init__).parameters.keys() & plain.config.keys():
        assert foreign.config[name] == plain.config[name], name
    for each in (foreign, plain):
        each.set_timesteps(10)
    torch.testing.assert_close(foreign.sigmas, plain.sigmas, rtol=0, atol=0)


def test_cells_made_with_such_switches_are_made_again_and_no_others() -> None:
    model = find_model("gaussian")
    study = parsed(lanes=["deis:3"])
    plain, carrying = (
        cells(study, replace(model, scheduler_config={**model.scheduler_config, **more}), "cpu")[0].trajectory_id
        for more in ({"use_beta_sigmas": False}, {"use_beta_sigmas": True})
    )
    assert plain == cells(study, model, "cpu")[0].trajectory_id != carrying


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_picture_that_is_not_finite_is_a_failed_cell_that_names_the_autoencoder(
    value: float, sd_model: Model, sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1111 #10227: black pictures that count as done."""
    decode = sd_model.pipe.vae.decode

    def overflowing(z: torch.Tensor, *args: Any, **options: Any) -> Any:
        first, *others = decode(z, *args, **options)
        bad = (z[:, :1, :1, :1].abs() * 100).int() % 2 == 1  # about every other one, whatever it is decoded with
        return (torch.where(bad, value, first), *others)

    monkeypatch.setattr(sd_model.pipe.vae, "decode", overflowing)
    cells = cells_of(sd_folder, ["ddim:3"], seeds=list(range(6)))
    samples = list(sample_cells(sd_model, cells, FrameSettings(count=2), 6))
    failed = [sample for sample in samples if sample.error]
    assert 0 < len(failed) < len(samples) == 6
    for sample in failed:
        assert "not finite: the autoencoder (AutoencoderKL, float32)" in str(sample.error)
        assert not sample.pictures
        assert not sample.spectra
    for sample in samples:
        if not sample.error:
            assert [picture.kind for picture in sample.pictures].count("final") == 1


def test_a_decoder_that_raises_fails_its_cell_and_not_the_run(
    sd_model: Model, sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no room for pictures")

    monkeypatch.setattr(sd_model.pipe.vae, "decode", broken)
    samples = list(sample_cells(sd_model, cells_of(sd_folder, ["ddim:2", "euler:2"]), FrameSettings(count=1), 4))
    assert [sample.error for sample in samples] == ["RuntimeError: no room for pictures"] * 2


@pytest.mark.parametrize("key", ["edm_euler", "edm_dpmpp_2m"])
def test_edm_models_are_solved_with_their_own_preconditioning(key: str, sdxl_model: Model, sdxl_folder: Path) -> None:
    """diffusers #7109: Playground v2.5 is an SDXL with an EDM scheduler and sigma_data 0.5."""
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_data=0.5)
    pipe = with_parts(sdxl_model.pipe, scheduler=scheduler)
    cells = cells_of(sdxl_folder, [f"{key}:5"], seeds=[0, 1])
    for sample in sample_cells(Model(find_model("gaussian"), pipe, "cpu"), cells, FrameSettings(count=1), 2):
        assert sample.error is None
        plain, clean = copy.copy(pipe), list[torch.Tensor]()
        plain.scheduler = build_scheduler(sample.cell.lane, {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5})
        step = plain.scheduler.step

        def watched(said: Any, timestep: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            sigma = float(plain.scheduler.sigmas[len(clean)])  # noqa: B023 (called before the next turn)
            skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25) ** 0.5
            clean.append(skip * x.double() + out * said.double())  # noqa: B023
            return step(said, timestep, x, *args, **kwargs)  # noqa: B023

        watched.__wrapped__ = step  # type: ignore[attr-defined]
        plain.scheduler.step = watched
        generator = torch.Generator().manual_seed(sample.cell.seed)
        [expected] = plain(**pipeline_arguments(pipe, sample.cell), generator=generator).images
        assert np.abs(picture_of(sample) - np.asarray(expected).astype(int)).max() <= 1
        for record, x0 in zip(sample.steps, clean, strict=True):
            assert record.x0 is not None
            assert float((record.x0 - x0).norm() / x0.norm()) <= 1e-5
        assert sample.steps[0].log_snr == pytest.approx(-2 * np.log(80.0), rel=1e-4)


def test_levels_of_continuous_models_are_the_schedulers_sigmas() -> None:
    config = {"timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.002, "sigma_max": 700.0}
    scheduler = diffusers.EulerDiscreteScheduler(**config, use_karras_sigmas=True)
    scheduler.set_timesteps(5)
    levels = NoiseLevels(scheduler)
    assert levels.at_step(scheduler, scheduler.timesteps[0]) == pytest.approx(np.log(700.0), rel=1e-5)


@pytest.mark.parametrize("key", ["sd3", "flux"])
def test_stochastic_lanes_are_drawn_again_where_the_pipeline_passes_no_generator(key: str) -> None:
    """The noise of the steps comes from the generator of the call, after that of the start."""
    pipe: Any = families.built(key)
    [lane] = [parse_lane("flow_euler:4")]
    lane = type(lane)("drawn:4", lane.scheduler, 4, {"stochastic_sampling": True})
    cells = [Cell(lane, "owl", seed, "", 4.0, PIXELS, PIXELS, "float32", key, "code") for seed in (3, 4)]
    runs = [
        {s.cell.seed: s for s in sample_cells(Model(find_model("gaussian"), pipe, "cpu"), cells, FrameSettings(0), n)}
        for n in (2, 1)
    ]
    for cell in cells:
        plain = copy.copy(pipe)
        plain.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, stochastic_sampling=True)
        generator, step = torch.Generator().manual_seed(cell.seed), plain.scheduler.step
        plain.scheduler.step = lambda *a, step=step, generator=generator, **k: step(*a, **{**k, "generator": generator})
        [expected] = plain(**pipeline_arguments(pipe, cell), generator=generator).images
        for samples in runs:
            assert np.abs(picture_of(samples[cell.seed]) - np.asarray(expected).astype(int)).max() <= 1


def test_prompts_that_are_cut_off_and_those_that_are_one_to_the_model_are_told(sd_model: Model) -> None:
    """diffusers #447: prompts that differ only beyond the limit give one picture a seed."""
    long = "red apple " * 50
    accents = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    prompts = ["owl", f"{long} owl", f"{long} pear", "red apple", *accents, "", " "]
    found = {each.prompt: each for each in read_prompts(sd_model.pipe, prompts, {})}
    assert "has 103 tokens, of which tokenizer reads the first 77" in str(found[f"{long} owl"].note)
    same = [{found[prompt].reading for prompt in pair} for pair in (prompts[1:3], accents, ["", " "])]
    assert [len(readings) for readings in same] == [1, 1, 1]
    assert len({each.reading for each in found.values()}) == len(prompts) - 3
    assert found["owl"].note is None


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a (red:1.4) apple", "(red:1.4)"),
        ("((red)) apple", "((red))"),
        ("[red:green:0.5] apple", "[red:green:0.5]"),
        ("red BREAK apple", "BREAK"),
        ("owl <lora:style:0.8>", "<lora:style:0.8>"),
        ("a (red) apple", None),
        ("time 10:30, breakfast", None),
    ],
)
def test_marks_of_other_programs_are_told(prompt: str, told: str | None, sd_model: Model) -> None:
    """A1111 takes them as weights and commands, diffusers as words."""
    [found] = read_prompts(sd_model.pipe, [prompt], {})
    assert (found.note is None) == (told is None)
    assert told is None or f"contains {told}, which other programs" in str(found.note)
