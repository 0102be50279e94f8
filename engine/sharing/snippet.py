"""A tuned schedule as a few lines of Python for plain diffusers, to be pasted anywhere."""

from collections.abc import Iterator
from pathlib import Path

from engine.study.families import family_of
from engine.study.tuned import TunedSchedule

# Where the class of fitted coefficients is written, and its name; it is copied as text, so that nothing loads torch.
FITTED_FILE, FITTED_CLASS = Path(__file__).parents[1] / "sampling" / "fitted.py", "FittedDPMSolver"


def snippet(tuned: TunedSchedule, prompt: str = "") -> str:
    """The lines: pipeline, scheduler, schedule, picture. They need diffusers alone, unless the model is computed."""
    prompt = prompt or ("a photo of a lighthouse at dusk" if tuned.source else "disc")
    return "\n".join(_lines(tuned, prompt)) + "\n"


def _lines(tuned: TunedSchedule, prompt: str) -> Iterator[str]:
    module, _, name = tuned.target.partition(":")
    (kind, values), *_ = tuned.schedule.spec().items()
    yield f"# For {tuned.model!r} at {tuned.conditions}; for these alone."
    fitted = tuned.schedule.coefficients
    name = FITTED_CLASS if fitted else name
    yield from _fitted_class() if fitted else ("import torch",)
    if tuned.source:
        yield f"from {module} import DiffusionPipeline" + ("" if fitted else f", {name}")
        yield f"pipe = DiffusionPipeline.from_pretrained({tuned.source!r})"
    else:
        yield from () if fitted else (f"from {module} import {name}",)
        yield "from engine.sampling.gaussian import build_pipeline"
        yield "pipe = build_pipeline()"
    settings = "".join(f", {key}={value!r}" for key, value in tuned.settings.items())
    yield f"pipe.scheduler = {name}.from_config(pipe.scheduler.config{settings})"
    if fitted:
        yield f"pipe.scheduler.coefficients = {[list(row) for row in fitted]}"
    call = [repr(prompt)]
    if tuned.wrapped:
        yield f"schedule, set_timesteps = {values}, pipe.scheduler.set_timesteps"
        yield (
            "pipe.scheduler.set_timesteps = lambda n=None, device=None, sigmas=None, timesteps=None, **more: "
            f"set_timesteps(device=device, {kind}=schedule, **more)"
        )
        call.append(f"num_inference_steps={tuned.steps}")
    else:
        call.append(f"{kind}={values}")
    call += [f"negative_prompt={tuned.negative_prompt!r}"] if tuned.negative_prompt else []
    family = family_of(tuned.pipeline)
    call += [f"{family.guidance}={tuned.guidance_scale!r}", f"width={tuned.width}", f"height={tuned.height}"]
    call.append('generator=torch.Generator("cpu").manual_seed(0)')
    yield (
        f"image = pipe({', '.join(call)}).images[0]"
        if family.frames == 1
        else f"clip = pipe({', '.join(call)}).frames[0]"
    )


def _fitted_class() -> Iterator[str]:
    """The class that a scheduler with fitted coefficients has, with its imports."""
    _, _, source = FITTED_FILE.read_text(encoding="utf-8").partition('"""\n\n')
    yield source
