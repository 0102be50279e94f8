"""The table of schedulers: an entry holds everything known about a scheduler. Imports no torch.

A new scheduler is one entry, added here or in a plug-in with `SCHEDULERS.register(Scheduler(...))`.
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
from engine.study.custom_schedules import CustomSchedule
from engine.study.level_variants import level_variants
from engine.study.registry import Registry

Calls = Literal["steps", "steps+1", "2*steps-1"]
# The time axis of a model: discrete timesteps of a noise schedule, the path of a flow, continuous noise levels with or
# without EDM preconditioning, or the shifted schedule of CogVideoX.
ModelKind = Literal["discrete", "flow", "edm", "continuous", "cogvideox"]

# Settings that space the noise levels; at most one may be on.
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
# Settings that solver classes interpret differently, or ignore.
ALGORITHMS = ("algorithm_type", "solver_type")

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Scheduler:
    """A way from noise to an image.

    Attributes:
        key: Stable name, stored in the cache and used in lanes (`key:steps`).
        label: Display name.
        target: `module:Class` of the scheduler class; imported only when a lane is built.
        overrides: Configuration on top of the model's own.
        stochastic: Whether it draws noise during sampling.
        order: Order of the solver in smooth regions.
        calls: Expected denoiser calls for a number of steps, for estimates only; real calls are counted.
        paper: Where the method was published.
        note: What to know before choosing it.
        distilled: Whether it is meant for distilled weights only (LCM, TCD).
        kinds: The kinds of models it solves; empty to go by the class name.
        levels: Placement of its noise levels ("beta", "ays", "tuned") if it differs from another entry only in that.
        schedule: The only schedule of a tuned entry.
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
    kinds: tuple[ModelKind, ...] = ()
    levels: str = ""
    schedule: CustomSchedule | None = None

    @property
    def solves(self) -> tuple[ModelKind, ...]:
        """The kinds of models it solves."""
        return self.kinds or kinds_of_class(self.target.rpartition(":")[2])

    def expected_calls(self, steps: int) -> int:
        """Denoiser calls expected for `steps` steps, for time estimates."""
        return {"steps": steps, "steps+1": steps + 1, "2*steps-1": 2 * steps - 1}[self.calls]

    def check(self) -> None:
        """Checks the entry.

        Raises:
            StudyError: The target is malformed.
        """
        if not _TARGET.fullmatch(self.target):
            raise StudyError(f"Scheduler '{self.key}': target {self.target!r} should read 'module:Class'.")


def kinds_of_class(name: str) -> tuple[ModelKind, ...]:
    """The kinds of models that a diffusers class solves, by its name."""
    if "FlowMatch" in name:
        return ("flow",)
    if name.startswith("CogVideoX"):
        return ("cogvideox",)
    if name.startswith("EDM"):
        return ("edm",)
    if name in FLOW_SIGMAS:
        return ("discrete", "flow")
    return ("discrete", "continuous")


# Diffusers classes that also solve flows, with `use_flow_sigmas`.
FLOW_SIGMAS = frozenset(
    {
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "DEISMultistepScheduler",
        "SASolverScheduler",
    }
)
_DISCRETE: tuple[ModelKind, ...] = ("discrete",)
_AND_FLOW: tuple[ModelKind, ...] = ("discrete", "flow")

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
    Scheduler("ddim", "DDIM", "diffusers:DDIMScheduler", paper="Song et al. 2021, arXiv:2010.02502", kinds=_DISCRETE),
    Scheduler(
        "ddpm",
        "DDPM",
        "diffusers:DDPMScheduler",
        stochastic=True,
        paper="Ho et al. 2020, arXiv:2006.11239",
        note="ancestral sampling; needs many steps",
        kinds=_DISCRETE,
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
        kinds=_DISCRETE,
    ),
    Scheduler(
        "euler", "Euler", "diffusers:EulerDiscreteScheduler", {"use_karras_sigmas": False}, paper=_EDM, kinds=_DISCRETE
    ),
    Scheduler(
        "euler_a",
        "Euler ancestral",
        "diffusers:EulerAncestralDiscreteScheduler",
        stochastic=True,
        paper="Crowson 2022, k-diffusion",
        note="adds noise at each step; does not converge to one image",
        kinds=_DISCRETE,
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
        kinds=_DISCRETE,
    ),
    Scheduler(
        "lms",
        "LMS",
        "diffusers:LMSDiscreteScheduler",
        {"use_karras_sigmas": False},
        order=4,
        paper="Crowson 2022, k-diffusion",
        note="linear multistep, needs scipy",
        kinds=_DISCRETE,
    ),
    Scheduler("dpmpp_2m", "DPM++ 2M", _DPM, _DPMPP, order=2, paper=_PP, kinds=_AND_FLOW),
    Scheduler(
        "dpmpp_2m_karras",
        "DPM++ 2M Karras",
        _DPM,
        _DPMPP | {"use_karras_sigmas": True},
        order=2,
        paper=_PP,
        kinds=_DISCRETE,
    ),
    Scheduler(
        "dpmpp_2m_sde",
        "DPM++ 2M SDE",
        _DPM,
        _DPMPP | {"algorithm_type": "sde-dpmsolver++"},
        stochastic=True,
        order=2,
        paper=_PP,
        kinds=_DISCRETE,
    ),
    Scheduler(
        "dpmpp_3m",
        "DPM++ 3M",
        _DPM,
        _DPMPP | {"solver_order": 3},
        order=3,
        paper=_PP,
        note="third order goes unstable first under strong guidance",
        kinds=_DISCRETE,
    ),
    Scheduler(
        "dpmpp_2s",
        "DPM++ 2S",
        "diffusers:DPMSolverSinglestepScheduler",
        _DPMPP,
        order=2,
        paper=_PP,
        note="one denoiser call a step in diffusers: the orders are interleaved over the steps",
        kinds=_AND_FLOW,
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
        kinds=_DISCRETE,
    ),
    Scheduler(
        "kdpm2",
        "DPM2",
        "diffusers:KDPM2DiscreteScheduler",
        {"use_karras_sigmas": False},
        order=2,
        calls="2*steps-1",
        paper=_EDM,
        kinds=_DISCRETE,
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
        kinds=_DISCRETE,
    ),
    Scheduler(
        "deis",
        "DEIS",
        "diffusers:DEISMultistepScheduler",
        {"use_karras_sigmas": False, "solver_order": 2},
        order=2,
        paper="Zhang and Chen 2023, arXiv:2204.13902",
        note="stops at the last noise level, not at zero",
        kinds=_AND_FLOW,
    ),
    Scheduler(
        "unipc",
        "UniPC",
        _UNIPC,
        {"use_karras_sigmas": False, "solver_order": 2},
        order=2,
        paper="Zhao et al. 2023, arXiv:2302.04867",
        kinds=_AND_FLOW,
    ),
    Scheduler(
        "unipc_karras",
        "UniPC Karras",
        _UNIPC,
        {"use_karras_sigmas": True, "solver_order": 2},
        order=2,
        paper="Zhao et al. 2023, arXiv:2302.04867",
        kinds=_DISCRETE,
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
        kinds=_AND_FLOW,
    ),
    Scheduler(
        "lcm",
        "LCM",
        "diffusers:LCMScheduler",
        stochastic=True,
        distilled=True,
        paper="Luo et al. 2023, arXiv:2310.04378",
        note="for distilled weights",
        kinds=_DISCRETE,
    ),
    Scheduler(
        "tcd",
        "TCD",
        "diffusers:TCDScheduler",
        stochastic=True,
        distilled=True,
        paper="Zheng et al. 2024, arXiv:2402.19159",
        note="for distilled weights",
        kinds=_DISCRETE,
    ),
    Scheduler(
        "flow_euler",
        "Flow Euler",
        "diffusers:FlowMatchEulerDiscreteScheduler",
        paper="Esser et al. 2024, arXiv:2403.03206",
        kinds=("flow",),
        note="the default of most flow models",
    ),
    Scheduler(
        "flow_heun",
        "Flow Heun",
        "diffusers:FlowMatchHeunDiscreteScheduler",
        order=2,
        calls="2*steps-1",
        paper=_EDM,
        kinds=("flow",),
        note="two denoiser calls a step",
    ),
    Scheduler(
        "edm_euler",
        "EDM Euler",
        "diffusers:EDMEulerScheduler",
        paper=_EDM,
        kinds=("edm",),
    ),
    Scheduler(
        "edm_dpmpp_2m",
        "EDM DPM++ 2M",
        "diffusers:EDMDPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero"},
        order=2,
        paper=_PP,
        kinds=("edm",),
    ),
    Scheduler(
        "euler_continuous",
        "Euler, continuous",
        "diffusers:EulerDiscreteScheduler",
        {"use_karras_sigmas": True},
        paper=_EDM,
        kinds=("continuous",),
        note="the default of Stable Video Diffusion",
    ),
    Scheduler(
        "cogvideox_ddim",
        "CogVideoX DDIM",
        "diffusers:CogVideoXDDIMScheduler",
        paper="Yang et al. 2024, arXiv:2408.06072",
        kinds=("cogvideox",),
    ),
    Scheduler(
        "cogvideox_dpm",
        "CogVideoX DPM",
        "diffusers:CogVideoXDPMScheduler",
        stochastic=True,
        order=2,
        paper="Yang et al. 2024, arXiv:2408.06072",
        kinds=("cogvideox",),
    ),
)

SCHEDULERS = Registry("scheduler", (*_BUILT_IN, *level_variants(_BUILT_IN)), "python -m engine schedulers")


def class_version(target: str) -> str:
    """Identifies the code behind a target: the diffusers release, or a digest of a plug-in's source.

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
