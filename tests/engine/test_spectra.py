"""What the steps of a run are in few numbers: octaves against plain sums, sketches against the latents themselves."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from engine.sampling.image_pass import Sample, run_cells, sample_cells
from engine.sampling.models import Model
from engine.sampling.recording import guidance_energy
from engine.sampling.spectra import SKETCH_SIZE, octave_masks, octaves, sketch
from engine.study.frame_settings import FrameSettings
from tests.engine.miniatures import cells_of

RANDOM = np.random.default_rng(0)


def found(x0: np.ndarray, final: np.ndarray) -> dict[tuple[str, int], float]:
    return {(metric, place): value for metric, place, value in octaves(x0, final)}


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (64, 64), (12, 8), (9, 30), (1, 1), (2, 2)])
def test_octaves_hold_every_coefficient_once(shape: tuple[int, int]) -> None:
    masks = octave_masks(*shape)
    assert (np.sum(list(masks.values()), axis=0) == 1).all()
    assert masks[0][0, 0], "the mean belongs to the lowest"


def test_octaves_of_64_latents_are_those_of_doubling_frequencies() -> None:
    assert list(octave_masks(64, 64)) == [0, 1, 2, 4, 8, 16]
    assert list(octave_masks(8, 8)) == [0, 1, 2]
    assert octave_masks(64, 64)[4][0, 8:16].all(), "4 to 8 cycles are 8 to 16 half waves"
    assert not octave_masks(64, 64)[4][0, [7, 16]].any()


@pytest.mark.parametrize("shape", [(4, 16, 16), (3, 5, 8, 12)], ids=["picture", "video"])
def test_octaves_are_correlation_and_power_of_the_cosine_coefficients(shape: tuple[int, ...]) -> None:
    x0, final = RANDOM.normal(size=(3, *shape)).astype(np.float32), RANDOM.normal(size=shape)
    values = found(x0, final)
    masks = octave_masks(*shape[-2:])
    assert len(values) == 2 * 3 * len(masks)
    for octave, mask in masks.items():
        for place in range(3):
            # Filtered back to latents: the octave's own part of each, compared plainly.
            mine, theirs = (
                idctn(
                    dctn(v.astype(np.float64), axes=(-2, -1), norm="ortho") * mask, axes=(-2, -1), norm="ortho"
                ).ravel()
                for v in (x0[place], final)
            )
            correlation = mine @ theirs / (np.linalg.norm(mine) * np.linalg.norm(theirs))
            assert values[f"coherence_{octave}", place] == pytest.approx(correlation, abs=1e-12)
            assert values[f"power_{octave}", place] == pytest.approx(mine @ mine / (theirs @ theirs))


def test_octaves_of_the_final_latents_are_fully_there_and_those_of_another_are_not() -> None:
    final = RANDOM.normal(size=(4, 32, 32))
    values = found(np.stack([final, -2 * final, RANDOM.normal(size=final.shape)]), final)
    for octave in octave_masks(32, 32):
        assert values[f"coherence_{octave}", 0] == pytest.approx(1)
        assert values[f"power_{octave}", 0] == pytest.approx(1)
        assert values[f"coherence_{octave}", 1] == pytest.approx(-1)
        assert values[f"power_{octave}", 1] == pytest.approx(4)
    assert abs(values["coherence_8", 2]) < 0.15


def test_a_smooth_estimate_is_coherent_in_low_octaves_and_has_no_power_in_high_ones() -> None:
    final = RANDOM.normal(size=(4, 32, 32))
    low = octave_masks(32, 32)[0] | octave_masks(32, 32)[1]
    smooth = idctn(dctn(final, axes=(-2, -1), norm="ortho") * low, axes=(-2, -1), norm="ortho")
    values = found(smooth[None], final)
    assert values["coherence_1", 0] == pytest.approx(1)
    assert values["power_8", 0] == pytest.approx(0, abs=1e-20)


def test_what_has_no_power_has_no_coherence_and_constant_latents_no_octaves_but_the_mean() -> None:
    zero = found(np.zeros((1, 2, 8, 8)), RANDOM.normal(size=(2, 8, 8)))
    assert {metric for metric, _ in zero} == {"power_0", "power_1", "power_2"}
    constant = found(np.ones((1, 2, 8, 8)), np.ones((2, 8, 8)))
    assert constant["coherence_0", 0] == pytest.approx(1)
    assert found(np.zeros((1, 2, 8, 8)), np.zeros((2, 8, 8))) == {}
    assert found(np.ones((1, 5, 64)), np.ones((5, 64))) == {}, "packed latents have no spatial axes"


@pytest.mark.parametrize("values", [512, 16384])
def test_distances_between_sketches_are_those_of_the_latents_to_a_few_percent(values: int) -> None:
    steps = np.random.default_rng(0).normal(size=(40, values))
    sketched = sketch(steps).astype(np.float64)
    pairs = [(a, b) for a in range(40) for b in range(a)]
    ratios = [np.linalg.norm(sketched[a] - sketched[b]) / np.linalg.norm(steps[a] - steps[b]) for a, b in pairs]
    assert np.std(ratios) < 0.09
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


def test_sketches_are_the_same_for_ever_and_small_latents_are_their_own() -> None:
    ramp = np.arange(1024, dtype=np.float64)[None] / 1024
    assert sketch(ramp)[0, :4].astype(float) == pytest.approx([1.3789, 0.7666, 1.5098, -0.3164], abs=2e-3)
    small = RANDOM.normal(size=(2, 3, 4, 4)).astype(np.float16)
    assert (sketch(small)[:, :48] == small.reshape(2, 48)).all()
    assert sketch(small).shape == (2, SKETCH_SIZE)


def test_guidance_energy_is_the_distance_of_the_halves_over_the_unguided_one() -> None:
    halves = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.linalg.norm(halves[1] - halves[0]) / np.linalg.norm(halves[0])
    assert float(guidance_energy(*halves)) == pytest.approx(expected, rel=1e-6)
    assert float(guidance_energy(halves[0], halves[0])) == 0


def cells_run(model: Model, folder: object, lanes: list[str], **settings: object) -> list[Sample]:
    with torch.no_grad():
        return list(run_cells(model, cells_of(folder, lanes, **settings), FrameSettings(count=0), 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("lane", ["ddim:6", "heun:4", "pndm:6", "euler_a:5", "dpmpp_2m:7"])
def test_guidance_energy_of_every_call_is_that_of_plain_diffusers(
    lane: str, sd_model: Model, sd_folder: object
) -> None:
    """Against a hook on the real denoiser of an unmodified pipeline; five cells share each forward here."""
    from tests.engine.test_parity import _plain_config, _plain_pipeline, _plain_scheduler

    lanes = list(dict.fromkeys([lane, "ddim:5", "euler:8"]))
    samples = cells_run(sd_model, sd_folder, lanes, guidance_scale=6.0, seeds=[1, 4], negative_prompt="blurry")
    sample = next(s for s in samples if (s.cell.lane.key, s.cell.seed) == (lane, 4))
    pipe, seen = _plain_pipeline(sd_folder), []  # type: ignore[arg-type]
    pipe.scheduler = _plain_scheduler(sample.cell, _plain_config(sd_folder))  # type: ignore[arg-type]
    hook = pipe.unet.register_forward_hook(lambda unet, inputs, output: seen.append(output[0].double()))
    pipe(
        sample.cell.prompt,
        negative_prompt="blurry",
        num_inference_steps=sample.cell.lane.steps,
        guidance_scale=6.0,
        generator=torch.Generator("cpu").manual_seed(4),
        output_type="latent",
    )
    hook.remove()
    expected = [float(np.linalg.norm(given - without) / np.linalg.norm(without)) for without, given in seen]
    assert [step.guidance_energy for step in sample.steps] == pytest.approx(expected, rel=1e-3)
    assert max(expected) > 0.01


def test_without_guidance_there_is_no_guidance_energy(sd_model: Model, sd_folder: object) -> None:
    [sample] = cells_run(sd_model, sd_folder, ["ddim:4"], guidance_scale=1.0)
    assert [step.guidance_energy for step in sample.steps] == [None] * 4


def test_guidance_energy_is_recorded_for_sdxl_and_videos_too(
    sdxl_model: Model, sdxl_folder: object, animatediff_model: Model, animatediff_folder: object
) -> None:
    for model, folder in ((sdxl_model, sdxl_folder), (animatediff_model, animatediff_folder)):
        [sample] = cells_run(model, folder, ["euler:3"], guidance_scale=5.0)
        energies = [step.guidance_energy for step in sample.steps]
        assert all(energy is not None and 0 < energy < 10 for energy in energies)
        assert {place for _, place, _ in sample.spectra} == {0, 1, 2}


def test_a_cell_carries_octaves_and_sketches_of_every_step_against_its_own_final_latents(gaussian_model: Model) -> None:
    [cell] = cells_of("gaussian", ["dpmpp_2m:9"], guidance_scale=1.0)
    [sample] = sample_cells(gaussian_model, [cell], FrameSettings(count=0), 1)
    assert sample.final is not None
    x0 = [step.x0 for step in sample.steps]
    stacked = np.concatenate([x.numpy() for x in x0 if x is not None])
    assert len(stacked) == 9
    expected = found(stacked, sample.final)
    assert {(metric, place): value for metric, place, value in sample.spectra} == pytest.approx(expected)
    assert [index for index, _ in sample.sketches] == list(range(9))
    assert (np.stack([data for _, data in sample.sketches]) == sketch(stacked)).all()
    assert expected["coherence_0", 8] == pytest.approx(1, abs=1e-6), "this solver ends at its last x0"
