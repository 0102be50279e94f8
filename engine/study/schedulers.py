"""The table of schedulers: one entry carries all that is known about a scheduler. Imports no torch.

A new scheduler is one entry, added here, or from outside with `register`:

    from engine.study.schedulers import Scheduler, register
    register(Scheduler(key="mine", label="My scheduler", target="my_package:MyScheduler"))
"""

import importlib.metadata
import importlib.util
import inspect
import operator
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from engine.errors import StudyError
from engine.study.registry import Registry

Calls = Literal["steps", "steps+1", "2*steps-1"]

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Scheduler:
    """One way of going from noise to an image.

    Attributes:
        key: Stable name, stored in the cache and used in lanes (`key:steps`).
        label: Name for people.
        target: `module:Class` of a diffusers scheduler class; imported only when a lane is built.
        overrides: Configuration that makes the class this scheduler, on top of the model's own.
        stochastic: Whether noise is drawn during sampling.
        order: Order of the solver in smooth regions.
        calls: Expected denoiser calls for a number of steps. Used for estimates only; real calls are counted.
        paper: Where the method was published.
        note: What one should know before choosing it.
        distilled: True if it is meant for distilled weights only (LCM, TCD).
    """

    key: str
    label: str
    target: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    stochastic: bool = False
    order: int = 1
    calls: Calls = "steps"
    paper: str = ""
    note: str = ""
    distilled: bool = False

    def expected_calls(self, steps: int) -> int:
        """Denoiser calls expected for `steps` steps, for time estimates."""
        return {"steps": steps, "steps+1": steps + 1, "2*steps-1": 2 * steps - 1}[self.calls]

    def check(self) -> None:
        """Checks the form of the target.

        Raises:
            StudyError: It is malformed.
        """
        if not _TARGET.fullmatch(self.target):
            raise StudyError(f"Scheduler '{self.key}': target {self.target!r} should read 'module:Class'.")


_DPM = "diffusers:DPMSolverMultistepScheduler"
_UNIPC = "diffusers:UniPCMultistepScheduler"
_PP = "Lu et al. 2022, arXiv:2211.01095"
_EDM = "Karras et al. 2022, arXiv:2206.00364"
_DPMPP: dict[str, Any] = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "use_karras_sigmas": False,
    "final_sigmas_type": "zero",
}

_BUILT_IN = (
    Scheduler("ddim", "DDIM", "diffusers:DDIMScheduler", paper="Song et al. 2021, arXiv:2010.02502"),
    Scheduler(
        "ddpm",
        "DDPM",
        "diffusers:DDPMScheduler",
        stochastic=True,
        paper="Ho et al. 2020, arXiv:2006.11239",
        note="ancestral sampling; needs many steps",
    ),
    Scheduler(
        "pndm",
        "PNDM",
        "diffusers:PNDMScheduler",
        {"skip_prk_steps": True},
        order=4,
        calls="steps+1",
        paper="Liu et al. 2022, arXiv:2202.09778",
        note="one extra denoiser call at the second step",
    ),
    Scheduler("euler", "Euler", "diffusers:EulerDiscreteScheduler", {"use_karras_sigmas": False}, paper=_EDM),
    Scheduler(
        "euler_a",
        "Euler ancestral",
        "diffusers:EulerAncestralDiscreteScheduler",
        stochastic=True,
        paper="Crowson 2022, k-diffusion",
        note="adds noise at each step; does not converge to one image",
    ),
    Scheduler(
        "heun",
        "Heun",
        "diffusers:HeunDiscreteScheduler",
        {"use_karras_sigmas": False},
        order=2,
        calls="2*steps-1",
        paper=_EDM,
        note="two denoiser calls a step",
    ),
    Scheduler(
        "lms",
        "LMS",
        "diffusers:LMSDiscreteScheduler",
        {"use_karras_sigmas": False},
        order=4,
        paper="Crowson 2022, k-diffusion",
        note="linear multistep, needs scipy",
    ),
    Scheduler("dpmpp_2m", "DPM++ 2M", _DPM, _DPMPP, order=2, paper=_PP),
    Scheduler("dpmpp_2m_karras", "DPM++ 2M Karras", _DPM, _DPMPP | {"use_karras_sigmas": True}, order=2, paper=_PP),
    Scheduler(
        "dpmpp_2m_sde",
        "DPM++ 2M SDE",
        _DPM,
        _DPMPP | {"algorithm_type": "sde-dpmsolver++"},
        stochastic=True,
        order=2,
        paper=_PP,
    ),
    Scheduler(
        "dpmpp_3m",
        "DPM++ 3M",
        _DPM,
        _DPMPP | {"solver_order": 3},
        order=3,
        paper=_PP,
        note="third order goes unstable first under strong guidance",
    ),
    Scheduler(
        "dpmpp_2s",
        "DPM++ 2S",
        "diffusers:DPMSolverSinglestepScheduler",
        _DPMPP,
        order=2,
        paper=_PP,
        note="one denoiser call a step in diffusers: the orders are interleaved over the steps",
    ),
    Scheduler(
        "dpm_sde",
        "DPM SDE",
        "diffusers:DPMSolverSDEScheduler",
        {"use_karras_sigmas": False},
        stochastic=True,
        order=2,
        calls="2*steps-1",
        paper=_PP,
        note="needs torchsde; the Brownian path is seeded with the cell's seed",
    ),
    Scheduler(
        "kdpm2",
        "DPM2",
        "diffusers:KDPM2DiscreteScheduler",
        {"use_karras_sigmas": False},
        order=2,
        calls="2*steps-1",
        paper=_EDM,
    ),
    Scheduler(
        "kdpm2_a",
        "DPM2 ancestral",
        "diffusers:KDPM2AncestralDiscreteScheduler",
        {"use_karras_sigmas": False},
        stochastic=True,
        order=2,
        calls="2*steps-1",
        paper="Crowson 2022, k-diffusion",
    ),
    Scheduler(
        "deis",
        "DEIS",
        "diffusers:DEISMultistepScheduler",
        {"use_karras_sigmas": False, "solver_order": 2},
        order=2,
        paper="Zhang and Chen 2023, arXiv:2204.13902",
        note="stops at the last noise level, not at zero",
    ),
    Scheduler(
        "unipc",
        "UniPC",
        _UNIPC,
        {"use_karras_sigmas": False, "solver_order": 2},
        order=2,
        paper="Zhao et al. 2023, arXiv:2302.04867",
    ),
    Scheduler(
        "unipc_karras",
        "UniPC Karras",
        _UNIPC,
        {"use_karras_sigmas": True, "solver_order": 2},
        order=2,
        paper="Zhao et al. 2023, arXiv:2302.04867",
    ),
    Scheduler(
        "sa_solver",
        "SA-Solver",
        "diffusers:SASolverScheduler",
        {"use_karras_sigmas": False},
        stochastic=True,
        order=2,
        paper="Xue et al. 2023, arXiv:2309.05019",
        note="stops at the last noise level, not at zero",
    ),
    Scheduler(
        "lcm",
        "LCM",
        "diffusers:LCMScheduler",
        stochastic=True,
        distilled=True,
        paper="Luo et al. 2023, arXiv:2310.04378",
        note="for distilled weights",
    ),
    Scheduler(
        "tcd",
        "TCD",
        "diffusers:TCDScheduler",
        stochastic=True,
        distilled=True,
        paper="Zheng et al. 2024, arXiv:2402.19159",
        note="for distilled weights",
    ),
)

SCHEDULERS = Registry("scheduler", _BUILT_IN, "python -m engine schedulers")
register = SCHEDULERS.register


def class_version(target: str) -> str:
    """What identifies the code behind a target: the diffusers release, or a digest of a plug-in's source.

    Raises:
        StudyError: The module of the target cannot be found.
    """
    module, _, name = target.partition(":")
    if module.partition(".")[0] == "diffusers":
        return "diffusers " + importlib.metadata.version("diffusers")
    if module == "__main__":
        try:
            source = inspect.getsource(operator.attrgetter(name)(sys.modules[module])).encode()
        except (AttributeError, TypeError, OSError) as error:
            raise StudyError(f"Scheduler '{target}' cannot be found: {error}.") from error
        return "source " + sha256(source).hexdigest()[:16]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise StudyError(f"Scheduler module '{module}' cannot be imported: {error}.") from error
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise StudyError(f"There is no module '{module}' for scheduler '{target}'; is it on PYTHONPATH?")
    return "source " + sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
