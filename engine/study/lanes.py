"""A lane, which is a scheduler with a step count and overrides, and checks of its configuration. Imports no torch."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.errors import StudyError
from engine.study.custom_schedules import CustomSchedule, align_your_steps, remarks
from engine.study.families import UNKNOWN, Family, kind_of
from engine.study.schedulers import SCHEDULERS, SPACINGS, ModelKind, Scheduler

MAX_STEPS = 1000
# Classes that assume the next timestep to be t - 1000 // steps, whatever their own list says.
FIXED_STRIDE = {"DDIMScheduler": "DDIM", "PNDMScheduler": "PNDM"}
# Classes that ignore `rescale_betas_zero_snr`.
DROP_ZERO_SNR = frozenset(
    f"{name}Scheduler"
    for name in (
        *("HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "PNDM"),
        *("DEISMultistep", "SASolver", "DPMSolverSinglestep"),
    )
)
# Classes that raise if a model predicts the picture itself.
NO_SAMPLE_PREDICTION = frozenset(
    f"{name}Scheduler"
    for name in ("EulerAncestralDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "PNDM")
)
# Solver settings with their usual values; other values are meant for the class that a model came with.
USUAL = {"lower_order_final": True, "euler_at_final": False, "predict_x0": True, "interpolation_type": "linear"}
# Steps from which Karras levels fail on schedules without signal (diffusers #12771): cosine, zero terminal SNR.
KARRAS_FAILS = {"DPMSolverMultistepScheduler": (4, 21), "UniPCMultistepScheduler": (6, 21)}
# Classes with a time axis of their own, unlike that of models trained on discrete timesteps.
OTHER_TIME_AXES = ("IPNDM",)


@dataclass(frozen=True)
class Lane:
    """A scheduler at a number of steps.

    Attributes:
        key: `scheduler:steps`, its name in studies and caches.
        scheduler: The registered entry.
        steps: `num_inference_steps`.
        overrides: Scheduler configuration on top of the model's and the entry's.
        description: One line for readers.
        schedule: Custom timesteps or sigmas; None to leave them to the class.
    """

    key: str
    scheduler: Scheduler
    steps: int
    overrides: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    schedule: CustomSchedule | None = None

    @property
    def label(self) -> str:
        """Display name with the step count."""
        return f"{self.scheduler.label} {self.steps}"

    @property
    def config(self) -> dict[str, Any]:
        """The scheduler configuration that this lane sets: the entry's, overridden by its own."""
        return {**self.scheduler.overrides, **self.overrides}

    @property
    def scheduler_class(self) -> str:
        """Class name of its scheduler."""
        return self.scheduler.target.rpartition(":")[2]

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise on the way, by its entry or by settings that make its class do so."""
        algorithm = str(self.config.get("algorithm_type"))
        if "dpmsolver" in algorithm and self.scheduler.target.startswith("diffusers:"):
            return algorithm.startswith("sde-")
        return self.scheduler.stochastic or self.config.get("stochastic_sampling") is True

    def at(self, steps: int) -> "Lane":
        """The lane with another number of steps, without its custom schedule."""
        key = f"{self.key.rpartition(':')[0]}:{steps}"
        schedule = align_your_steps(steps) if self.scheduler.levels == "ays" else None
        return self if steps == self.steps else replace(self, key=key, steps=steps, schedule=schedule)


@dataclass(frozen=True)
class Finding:
    """Something noteworthy about a lane's configuration; an "error" is refused.

    Attributes:
        code: Stable name of the finding.
        message: The problem, and the remedy if there is one.
    """

    severity: Literal["error", "warning", "info"]
    code: str
    message: str


def parse_lane(text: str) -> Lane:
    """Reads `key:steps`, e.g. `dpmpp_2m:20`.

    Raises:
        StudyError: Not of that form, an unknown scheduler, or steps outside 1..1000.
    """
    lanes = parse_lanes(text)
    if len(lanes) > 1:
        raise StudyError(f"Lane {text!r} has {len(lanes)} step counts; give one here, e.g. 'dpmpp_2m:20'.")
    return lanes[0]


def parse_lanes(text: str) -> list[Lane]:
    """Reads `key:steps` with one or more step counts, e.g. `dpmpp_2m:10,20,40`: a lane for each.

    Raises:
        StudyError: Not of that form, an unknown scheduler, or steps outside 1..1000.
    """
    entry = SCHEDULERS.lookup(_parts(text)[0])
    return [
        Lane(f"{entry.key}:{steps}", entry, steps, {}, described(entry), known_schedule(entry, steps))
        for steps in parse_steps(text)
    ]


def described(entry: Scheduler, description: str = "") -> str:
    """The line for readers of a lane; of a tuned entry, it always says for which conditions."""
    told = entry.note if entry.levels == "tuned" else ""
    return description if told in description else "; ".join(filter(None, [description, told]))


def known_schedule(entry: Scheduler, steps: int) -> CustomSchedule | None:
    """The schedule that belongs to an entry; None if its class computes it.

    Raises:
        StudyError: The entry was tuned for another number of steps.
    """
    if entry.schedule is not None:
        tuned = entry.schedule.steps(entry.target.rpartition(":")[2])
        if tuned != steps:
            raise StudyError(f"Lane '{entry.key}:{steps}' was tuned for {tuned} steps: write '{entry.key}:{tuned}'.")
        return entry.schedule
    return align_your_steps(steps) if entry.levels == "ays" else None


def for_family(lane: Lane, family: Family) -> Lane:
    """The lane with the Align Your Steps list of the family: SDXL has its own."""
    if lane.scheduler.levels == "ays" and family.key == "sdxl" and lane.schedule == align_your_steps(lane.steps):
        return replace(lane, schedule=align_your_steps(lane.steps, "sdxl"))
    return lane


def parse_steps(text: str) -> list[int]:
    """The step counts of a lane such as `dpmpp_2m:10,20,40`.

    Raises:
        StudyError: Not of that form, or steps outside 1..1000.
    """
    return [check_steps(text, int(steps)) for steps in _parts(text)[1].split(",")]


def _parts(text: str) -> tuple[str, str]:
    """Scheduler and step counts of a lane."""
    match = re.fullmatch(r"\s*([^:\s]+)\s*:\s*([+-]?[0-9]{1,9}(?:\s*,\s*[+-]?[0-9]{1,9})*)\s*", text)
    if match is None:
        raise StudyError(f"Lane {text!r} should read 'scheduler:steps', e.g. 'dpmpp_2m:20' or 'dpmpp_2m:10,20'.")
    return match[1], match[2]


def check_steps(lane: str, steps: object) -> int:
    """Returns the step count if it is a whole number in 1..1000.

    Raises:
        StudyError: It isn't.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise StudyError(f"Lane '{lane}': steps must be a whole number from 1 to {MAX_STEPS}, not {steps!r}.")
    return steps


def check_lane(lane: Lane, model_config: Mapping[str, Any], family: Family = UNKNOWN) -> list[Finding]:
    """What is known to be wrong with a lane on a model, before anything runs.

    Args:
        lane: The lane.
        model_config: The model's own scheduler configuration (`scheduler/scheduler_config.json`).
        family: The model's family, which may restrict the solvers.
    """
    unfit = _unfit(lane, kind_of(model_config), family)
    return [*unfit, *_findings(lane, {**model_config, **lane.config}, model_config, family)]


def fitting(kind: ModelKind, family: Family) -> list[Scheduler]:
    """The registered schedulers that suit a kind of model and a family; distilled ones only if the family names them.

    Entries that differ from others only in their noise levels are left out.
    """
    suitable = (entry for entry in SCHEDULERS.values() if kind in entry.solves and not entry.levels)
    if family.solvers:
        return [entry for entry in suitable if entry.key in family.solvers]
    return [entry for entry in suitable if not entry.distilled]


def fitting_lanes(model_config: Mapping[str, Any], family: Family, steps: int) -> list[Lane]:
    """A lane for every scheduler that suits a model and has no known error there."""
    lanes = [Lane(f"{entry.key}:{steps}", entry, steps) for entry in fitting(kind_of(model_config), family)]
    return [
        lane
        for lane in lanes
        if not any(finding.severity == "error" for finding in check_lane(lane, model_config, family))
    ]


# What models of each kind predict, for messages.
_PREDICTS: dict[ModelKind, str] = {
    "discrete": "predicts noise or velocity at discrete timesteps",
    "flow": "predicts flow (it came with a flow scheduler)",
    "edm": "was trained with the preconditioning of EDM, at continuous noise levels",
    "continuous": "was trained at continuous noise levels",
    "cogvideox": "has the shifted noise schedule of CogVideoX",
}


def _unfit(lane: Lane, kind: ModelKind, family: Family) -> Iterator[Finding]:
    """Refuses a solver that is made for models of another kind, or misreads the levels of the pipeline."""
    by_target = {entry.target for entry in fitting(kind, family)}
    names = ", ".join(entry.key for entry in fitting(kind, family))
    if kind not in lane.scheduler.solves:
        code = "flow_model" if kind == "flow" else "other_kind"
        yield Finding(
            "error", code, f"the model {_PREDICTS[kind]}, which this solver is not made for. Those that fit: {names}."
        )
    elif family.solvers and lane.scheduler.target not in by_target:
        yield Finding(
            "error", "unfit_solver", f"it is refused or solved wrongly by {family.label}. Those that fit: {names}."
        )


def unusual(scheduler_config: Mapping[str, Any]) -> list[str]:
    """Which of the choices in `USUAL` a scheduler configuration makes otherwise."""
    return [name for name, value in USUAL.items() if scheduler_config.get(name, value) != value]


def _has_betas_of_sd(config: Mapping[str, Any]) -> bool:
    betas = (config.get("beta_schedule"), config.get("beta_start"), config.get("beta_end"))
    return betas == ("scaled_linear", 0.00085, 0.012) and not config.get("trained_betas")


def _findings(
    lane: Lane, config: Mapping[str, Any], model_config: Mapping[str, Any], family: Family
) -> Iterator[Finding]:
    name = lane.scheduler.target.partition(":")[2]
    trained = int(config.get("num_train_timesteps", 1000))
    spacing = config.get("timestep_spacing")
    if lane.steps > trained:
        yield Finding("error", "too_many_steps", f"{lane.steps} steps, but the model has {trained} timesteps.")
    if name in FIXED_STRIDE and spacing == "linspace":
        yield Finding(
            "error",
            "fixed_stride_linspace",
            f"{FIXED_STRIDE[name]} steps by a fixed stride, which is wrong for timestep_spacing 'linspace' "
            "(diffusers #12633). Use 'leading' or 'trailing'.",
        )
    if name in FIXED_STRIDE and spacing == "trailing" and trained % lane.steps:
        yield Finding(
            "error",
            "fixed_stride_trailing",
            f"'trailing' spacing needs a step count that divides {trained}; {lane.steps} does not (diffusers #14357).",
        )
    first = (lane.steps - 1) * (trained // lane.steps) + int(config.get("steps_offset", 0))
    if name in {"DDIMScheduler", "DDPMScheduler"} and spacing in {None, "leading"} and first >= trained:
        yield Finding(
            "error",
            "outside_training",
            f"it would start at timestep {first}, outside the model's {trained} "
            "(diffusers #10003). Use fewer steps or steps_offset = 0.",
        )
    if name == "PNDMScheduler" and config.get("prediction_type") == "v_prediction":
        yield Finding(
            "warning",
            "pndm_velocity",
            "the model predicts velocity; PNDM averages predictions of several noise levels before it "
            "converts them, which is right for noise predictions only.",
        )
    if config.get("prediction_type") == "sample" and name in NO_SAMPLE_PREDICTION:
        yield Finding("error", "sample_prediction", f"the model predicts the picture itself, which {name} cannot read.")
    if name.startswith(OTHER_TIME_AXES) and not str(model_config.get("_class_name", "")).startswith(OTHER_TIME_AXES):
        yield Finding(
            "error",
            "other_time_axis",
            f"{name} has its own time axis; this model uses discrete timesteps.",
        )
    if config.get("clip_sample") and lane.config.get("clip_sample"):
        yield Finding(
            "error", "clip_sample", "clip_sample clips latents to [-1, 1], which destroys images of latent models."
        )
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type", "epsilon") == "epsilon":
        yield Finding(
            "error", "zero_snr", "rescale_betas_zero_snr divides by zero with noise prediction (diffusers #3851)."
        )
    if model_config.get("rescale_betas_zero_snr") and name in DROP_ZERO_SNR:
        yield Finding(
            "error",
            "zero_snr_dropped",
            f"the model's noise schedule ends without any signal (rescale_betas_zero_snr), which {name} ignores: its "
            "noise levels differ from those in training.",
        )
    if config.get("use_karras_sigmas") and name in KARRAS_FAILS and not lane.schedule:
        cosine, zero = KARRAS_FAILS[name]
        few = cosine if config.get("beta_schedule") == "squaredcos_cap_v2" else zero
        if (few == cosine or config.get("rescale_betas_zero_snr")) and lane.steps >= few:
            yield Finding(
                "error",
                "karras_without_signal",
                f"the noise schedule ends without signal, where {name} fails with Karras levels from {few} steps on "
                "(diffusers #12771). Use the levels of the class, or another solver.",
            )
    if config.get("algorithm_type") in {"dpmsolver", "sde-dpmsolver"} and config.get("final_sigmas_type") == "zero":
        yield Finding(
            "error",
            "solver_to_zero",
            f"algorithm_type '{config['algorithm_type']}' needs final_sigmas_type 'sigma_min'.",
        )
    if lane.schedule is not None and lane.scheduler.target.startswith("diffusers:"):
        of_list = remarks(lane.schedule, lane.scheduler_class, {**config, **lane.config}, SPACINGS)
        yield from (Finding(*remark) for remark in of_list)
    if lane.scheduler.levels == "ays" and not _has_betas_of_sd(config):
        yield Finding(
            "error", "other_noise_schedule", "the lists of Align Your Steps are for the noise schedule of SD and SDXL."
        )
    if lane.scheduler.distilled:
        limit = int(config.get("original_inference_steps", 50))
        if lane.steps > limit:
            yield Finding("error", "too_many_steps", f"at most {limit} steps (original_inference_steps).")
        if lane.scheduler.key not in family.solvers:
            yield Finding("warning", "distilled", "meant for distilled weights; on others the comparison says little.")
