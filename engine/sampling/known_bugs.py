"""Known bugs and pitfalls of diffusers, each tested on the installed release.

An entry shares its code with the findings of lint.py and lanes.py that warn about it. `lint --bugs` and a test report
entries that no longer hold, and with them the rules that depend on them.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from engine.sampling.probe import Probe, probe

# The schedule of Stable Diffusion, with none of the keys that differ between its releases.
BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
LATENT: dict[str, Any] = BETAS | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


@dataclass(frozen=True)
class KnownBug:
    """A bug or pitfall.

    Attributes:
        code: Code of the finding that warns about it.
        issues: Numbers of diffusers issues and pull requests; empty if it was found here.
        seen: Versions of diffusers in which it was seen.
        title: What goes wrong.
        remedy: What to do about it.
        holds: Whether the installed diffusers still has it.
    """

    code: str
    issues: tuple[int, ...]
    seen: str
    title: str
    remedy: str
    holds: Callable[[], bool]

    @property
    def reference(self) -> str:
        """The issues as text, e.g. "diffusers #12633, #9261"."""
        return "diffusers " + ", ".join(f"#{issue}" for issue in self.issues) if self.issues else ""


def worst_level(found: Probe) -> float:
    """Largest relative difference between the level of the latents and the one passed to the denoiser."""
    return max(abs(sigma / told - 1) for sigma, told in zip(found.sigmas, found.told, strict=True))


def _ddim_linspace() -> bool:
    return worst_level(probe(diffusers.DDIMScheduler(**LATENT, timestep_spacing="linspace"), 9)) > 0.2


def _ddim_trailing() -> bool:
    return worst_level(probe(diffusers.DDIMScheduler(**LATENT, timestep_spacing="trailing"), 30)) > 0.01


def _thousand_steps() -> bool:
    scheduler = diffusers.DDIMScheduler(**LATENT)
    scheduler.set_timesteps(1000)
    return int(scheduler.timesteps[0]) >= 1000


def _clips_by_default() -> bool:
    bare = diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True).config
    return bool(diffusers.DDIMScheduler.from_config(bare).config.clip_sample)


def _inherits() -> bool:
    stored = LATENT | {"timestep_spacing": "leading", "_class_name": "PNDMScheduler"}
    return bool(diffusers.EulerDiscreteScheduler.from_config(stored).config.timestep_spacing == "leading")


def _solver_to_zero() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # this algorithm type is deprecated
        try:
            diffusers.DPMSolverMultistepScheduler(**BETAS, algorithm_type="dpmsolver", final_sigmas_type="zero")
        except ValueError:
            return True
    return False


def _zero_snr() -> bool:
    scheduler = diffusers.DDIMScheduler(**LATENT, timestep_spacing="trailing", rescale_betas_zero_snr=True)
    scheduler.set_timesteps(10)
    sample = torch.ones(1, 1, 2, 2)
    stepped = scheduler.step(sample / 2, scheduler.timesteps[0], sample, return_dict=False)[0]
    return not bool(torch.isfinite(stepped).all())


def _karras(steps: int) -> Probe:
    options: dict[str, Any] = {"use_karras_sigmas": True, "final_sigmas_type": "zero"}
    return probe(diffusers.DPMSolverMultistepScheduler(**BETAS, **options), steps)


def _repeats() -> bool:
    found = _karras(50)
    return len(set(found.timesteps)) < len(found.timesteps)


def _last_jump() -> bool:
    found = probe(diffusers.DPMSolverMultistepScheduler(**BETAS, timestep_spacing="linspace"), 20)
    return found.jumps_to_zero and found.sigmas[-1] > 0.2


def _stops_noisy() -> bool:
    return probe(diffusers.DEISMultistepScheduler(**BETAS), 20).final_sigma > 0.02


def _starts_low() -> bool:
    found = probe(diffusers.DDIMScheduler(**LATENT, timestep_spacing="leading"), 20)
    return found.starts_as_noise and found.timesteps[0] < 960


def _pndm_calls() -> bool:
    return len(probe(diffusers.PNDMScheduler(**_pndm()), 20).timesteps) == 21


def _pndm_velocity() -> bool:
    exact = worst_level(probe(diffusers.PNDMScheduler(**_pndm()), 20))
    return worst_level(probe(diffusers.PNDMScheduler(**_pndm(), prediction_type="v_prediction"), 20)) > 100 * exact


def _pndm() -> Mapping[str, Any]:
    return BETAS | {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}


def _one_timestep() -> bool:
    scheduler = diffusers.DDIMScheduler(**LATENT)
    scheduler.set_timesteps(10)
    sample = torch.ones(2, 1, 3, 3)
    try:
        scheduler.step(sample, scheduler.timesteps[:2], sample)
    except (RuntimeError, ValueError, TypeError):
        return True
    return False


_HERE = "0.42.1"

KNOWN_BUGS: tuple[KnownBug, ...] = (
    KnownBug(
        "fixed_stride_linspace",
        (12633, 11347, 9261),
        _HERE,
        "DDIM and PNDM step back by 1000 // steps, not to the next timestep of their list",
        "timestep_spacing 'leading' or 'trailing'",
        _ddim_linspace,
    ),
    KnownBug(
        "fixed_stride_trailing",
        (14357, 13108),
        _HERE,
        "the same with 'trailing' and a step count that does not divide the training timesteps",
        "a step count that divides 1000",
        _ddim_trailing,
    ),
    KnownBug(
        "outside_training",
        (10003,),
        _HERE,
        "DDIM with 1000 steps and offset 1 starts at timestep 1000 of 0..999",
        "fewer steps, or steps_offset = 0",
        _thousand_steps,
    ),
    KnownBug(
        "clip_sample",
        (),
        _HERE,
        "a DDIM, DDPM, LCM or TCD made from a configuration without clip_sample clips latents to [-1, 1]",
        "the lab sets clip_sample = false for every lane",
        _clips_by_default,
    ),
    KnownBug(
        "inherited",
        (6068,),
        _HERE,
        "stored settings of the model's scheduler persist when the scheduler is changed",
        "set the key in the lane",
        _inherits,
    ),
    KnownBug(
        "solver_to_zero",
        (6477, 6295, 5689),
        _HERE,
        "algorithm_type 'dpmsolver' and 'sde-dpmsolver' cannot end at sigma 0",
        "final_sigmas_type = 'sigma_min'",
        _solver_to_zero,
    ),
    KnownBug(
        "zero_snr",
        (3851,),
        _HERE,
        "noise prediction divides by zero at levels without signal",
        "velocity prediction with trailing spacing",
        _zero_snr,
    ),
    KnownBug(
        "repeated_timestep",
        (),
        _HERE,
        "rounding gives two Karras levels the same timestep",
        "no remedy needed below about 50 steps",
        _repeats,
    ),
    KnownBug(
        "rounded_timesteps",
        (),
        _HERE,
        "the denoiser gets rounded timesteps, while the solver uses exact levels",
        "none; the difference is shown",
        lambda: worst_level(_karras(20)) > 0.01,
    ),
    KnownBug(
        "last_jump",
        (6477, 5541),
        _HERE,
        "multistep solvers end with a first-order jump from a high level to zero",
        "Karras levels, or more steps near the end; 'sigma_min' only leaves noise in the picture",
        _last_jump,
    ),
    KnownBug(
        "stops_noisy",
        (),
        _HERE,
        "DEIS and SA-Solver stop at the lowest level, not at zero",
        "none; the noise stays in the latents",
        _stops_noisy,
    ),
    KnownBug(
        "start",
        (),
        _HERE,
        "leading spacing starts below the highest level, with pure noise",
        "timestep_spacing 'trailing' or 'linspace'",
        _starts_low,
    ),
    KnownBug("more_calls", (444,), _HERE, "PNDM takes one more call than steps", "compare at equal calls", _pndm_calls),
    KnownBug(
        "pndm_velocity",
        (),
        _HERE,
        "PNDM averages velocity predictions of several levels before converting them",
        "another scheduler for models that predict velocity",
        _pndm_velocity,
    ),
    KnownBug(
        "one_timestep",
        (1784,),
        _HERE,
        "a step takes one timestep for the whole batch",
        "the lab gives every cell its own scheduler",
        _one_timestep,
    ),
)


def bug_of(code: str) -> KnownBug | None:
    """The entry with a code; None if there is none."""
    return next((bug for bug in KNOWN_BUGS if bug.code == code), None)
