"""Idle calls of a pipeline: one step with a denoiser that returns zeros and a scheduler that returns given latents.

They show what a pipeline does without any knowledge of its family: how latents become pictures (unpacking, scale,
shift, means and resizing in the pipeline's last lines), and what its denoiser receives for one prompt and for two.
"""

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import DiffusionPipeline

from engine.sampling.joining import Axis, Path, arguments_of, learn_axes
from engine.sampling.standins import Denoised, StandIn, denoisers, with_parts

# One denoiser call per step and no skipped steps; these arguments don't affect what follows the loop.
QUIET = {
    "guidance_scale": 1.0,
    "true_cfg_scale": 1.0,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 1.0,
    "strength": 1.0,
}
# Some pipelines divide by the number of steps minus one.
STEPS_ASKED_FOR = 2
# Arguments that repeat a prompt without encoding it again.
COPIES = ("num_images_per_prompt", "num_videos_per_prompt")


class OneStep:
    """Stands in for a scheduler: a single step that returns given latents.

    Args:
        real: The scheduler it replaces.
        latents: What the step returns; None to end the call at the step.
        generator: The call's generator.
        state: State that the generator gets at the step, as after the real steps; None to leave it unchanged.
    """

    order, init_noise_sigma, num_inference_steps = 1, 1.0, 1

    def __init__(
        self,
        real: Any,
        latents: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        state: torch.Tensor | None = None,
    ) -> None:
        self.real, self.latents, self.generator, self.state = real, latents, generator, state
        self.timesteps, self.sigmas = torch.empty(0), torch.tensor([1.0, 0.0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **options: Any,
    ) -> None:
        """Sets a single timestep, the noisiest one."""
        self.timesteps = torch.full((1,), float(self.real.config.get("num_train_timesteps", 1000)) - 1, device=device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Ignored."""

    def add_noise(self, original_samples: torch.Tensor, noise: Any = None, timesteps: Any = None) -> torch.Tensor:
        """The picture unchanged, since the initial latents don't matter."""
        return original_samples

    def scale_noise(self, sample: torch.Tensor, timestep: Any = None, noise: Any = None) -> torch.Tensor:
        """The picture unchanged."""
        return sample

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The latents unchanged."""
        return sample

    def step(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        """The given latents, also as the x0 estimate, which some pipelines decode."""
        if self.latents is None:
            raise _SeenError
        if self.state is not None and self.generator is not None:
            self.generator.set_state(self.state)
        return _Stepped((self.latents, self.latents))


class _Stepped(tuple[torch.Tensor, ...]):
    prev_sample = property(lambda self: self[0])
    pred_original_sample = property(lambda self: self[1])


class _SeenError(Exception):
    """Ends an idle call early."""


class _Silent(StandIn):
    """Stands in for a denoiser: returns zeros and records its arguments."""

    def __init__(self, real: Any, seen: list[dict[str, Any]]) -> None:
        super().__init__(real)
        self.__dict__["seen"] = seen

    def forward(self, *args: Any, **kwargs: Any) -> Denoised:
        """Zeros in the shape of the denoiser's output."""
        arguments = arguments_of(self.real, args, kwargs)
        self.seen.append(arguments)
        first = next(iter(arguments.values()))
        if isinstance(first, list):
            return Denoised(([torch.zeros_like(row) for row in first],))
        return Denoised((_answer_like(first, self.real),))


def _answer_like(latents: torch.Tensor, denoiser: Any) -> torch.Tensor:
    """Zeros in the shape of a denoiser's output, whose number of channels may differ from its input's."""
    config: Mapping[str, Any] = getattr(denoiser, "config", {})
    # Some classes compute the number of channels (twice as many with variances) and store it beside the configuration.
    given, answered = (vars(denoiser).get(name, config.get(name)) for name in ("in_channels", "out_channels"))
    shape = list(latents.shape)
    if latents.ndim >= 4 and isinstance(given, int) and isinstance(answered, int):
        # (B, C, H, W), (B, C, F, H, W) or (B, F, C, H, W)
        axis = next((axis for axis in (-3, 1) if shape[axis] == given), None)
        if axis is not None:
            shape[axis] = answered
    return latents.new_zeros(shape)


class _Receiving(StandIn):
    """Stands in for an autoencoder: records the latents it should decode and ends the call."""

    def __init__(self, real: Any, seen: list[torch.Tensor]) -> None:
        super().__init__(real)
        # Pipelines inspect the signature of `forward`, and convert the autoencoder to another number format.
        self.__dict__.update(seen=seen, forward=real.forward, to=lambda *args, **kwargs: self)

    def decode(self, z: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Records the latents; never returns."""
        self.seen.append(z)
        raise _SeenError


def pictures_of(
    pipe: DiffusionPipeline,
    latents: torch.Tensor,
    arguments: Mapping[str, Any],
    seed: int,
    state: torch.Tensor | None = None,
) -> np.ndarray:
    """Decodes latents as the pipeline does.

    Args:
        pipe: Any pipeline.
        latents: (N, ...) in the scheduler's layout; N > 1 only for calls that draw nothing but their initial noise.
        arguments: Arguments of the call that made them.
        seed: Seed of that call; inpainting blends the latents with a picture whose encoding draws from the generator.
        state: Generator state of that call after its steps; some autoencoders draw noise.

    Returns:
        (N, frames, height, width, 3) bytes; one frame for pictures.

    Raises:
        FloatingPointError: The output of the autoencoder is not finite.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    scheduler = OneStep(pipe.scheduler, latents, generator, state)
    with _checked(getattr(pipe, "vae", None)):
        output = _call(pipe, _quiet(pipe, arguments), len(latents), scheduler, generator, {}, output_type="np")
    found = np.asarray(output[0] if isinstance(output, tuple) else output)
    found = found if found.ndim == 5 else found[:, None]
    if not np.isfinite(found).all():
        raise _overflow(getattr(pipe, "vae", None))
    return (found * 255).round().astype("uint8")


@contextlib.contextmanager
def _checked(autoencoder: Any) -> Iterator[None]:
    """Makes an autoencoder raise on infinities, which the pipeline would clip to white or black."""
    if autoencoder is None:
        yield
        return
    real = autoencoder.decode

    @functools.wraps(real)
    def decode(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if not bool(torch.isfinite(answer[0]).all()):
            raise _overflow(autoencoder)
        return answer

    with mock.patch.object(autoencoder, "decode", decode):
        yield


def _overflow(autoencoder: Any) -> FloatingPointError:
    number_format = str(getattr(autoencoder, "dtype", "")).removeprefix("torch.")
    return FloatingPointError(
        f"the picture is not finite: the autoencoder ({type(autoencoder).__name__}, "
        f"{number_format}) overflows on finite latents; use dtype float32 or bfloat16"
    )


def spatial_latents(
    pipe: DiffusionPipeline, latents: torch.Tensor, arguments: Mapping[str, Any], seed: int
) -> torch.Tensor:
    """Latents in the autoencoder's layout: (N, channels, [frames,] height, width), unpacked and scaled.

    Raises:
        ValueError: The pipeline decodes its latents in parts.
    """
    seen: list[torch.Tensor] = []
    generator = torch.Generator("cpu").manual_seed(seed)
    scheduler = OneStep(pipe.scheduler, latents, generator)
    parts = {"vae": _Receiving(pipe.vae, seen)}
    _call(pipe, _quiet(pipe, arguments), len(latents), scheduler, generator, parts, output_type="np")
    if not seen or len(seen[0]) != len(latents):
        raise ValueError("the pipeline decodes its latents in parts")
    return seen[0]


def decoding_only_scales(pipe: DiffusionPipeline, like: torch.Tensor, arguments: Mapping[str, Any], seed: int) -> bool:
    """Whether the autoencoder receives these latents up to one factor; tried on zeros and on noise."""
    noise = torch.randn(like.shape, generator=torch.Generator("cpu").manual_seed(0)).to(like)
    nothing, something = (spatial_latents(pipe, z, arguments, seed) for z in (torch.zeros_like(noise), noise))
    if something.shape != noise.shape or bool(nothing.any()):
        return False
    factor = (something.float() * noise.float()).sum() / noise.float().square().sum()
    return torch.allclose(something.float(), factor * noise.float(), rtol=1e-2, atol=1e-2 * float(factor.abs()))


def row_axes(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> dict[Path, Axis] | None:
    """The batch axis of every denoiser argument; None if the pipeline can't take two prompts."""
    try:
        one, two = (_given(pipe, arguments, rows) for rows in (1, 2))
        return learn_axes(one, two)
    except Exception:  # any error of a pipeline that takes one prompt at a time; its calls then run alone
        return None


def encode_texts(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> None:
    """Makes a pipeline encode the texts of a call and of the idle call that decodes its latents, and nothing else.

    Errors are ignored here, since the call itself will report them.
    """
    for called in (arguments, _quiet(pipe, arguments)):
        with contextlib.suppress(Exception):
            generator = torch.Generator("cpu").manual_seed(0)
            _call(pipe, called, 1, OneStep(pipe.scheduler), generator, {}, output_type="latent")


def idle_call(
    pipe: DiffusionPipeline,
    arguments: Mapping[str, Any],
    scheduler: Any,
    seed: int,
    seen: list[dict[str, Any]],
    *,
    first_step: bool = False,
) -> None:
    """A whole pipeline call up to its latents, with a real scheduler and a denoiser that returns zeros.

    Args:
        pipe: Any pipeline.
        arguments: Arguments of its call.
        scheduler: A fresh scheduler, not to be reused.
        seed: Seed of the call.
        seen: Receives the arguments of every denoiser call.
        first_step: Whether to end the call after its first step.

    Raises:
        Exception: Any error of the pipeline or the scheduler.
    """
    silent = {name: _Silent(real, seen) for name, real in denoisers(pipe).items()}
    twin: Any = with_parts(pipe, scheduler=scheduler, **silent)
    step = scheduler.step

    @functools.wraps(step)
    def once(*args: Any, **kwargs: Any) -> None:
        step(*args, **kwargs)
        raise _SeenError

    if first_step:
        scheduler.step = once
    generator = torch.Generator("cpu").manual_seed(seed)
    with contextlib.suppress(_SeenError):
        twin(**arguments, generator=generator, output_type="latent", return_dict=False)


def _given(pipe: DiffusionPipeline, arguments: Mapping[str, Any], rows: int) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    several = dict(arguments)
    if "prompt" in arguments:
        several |= {key: [arguments[key]] * rows for key in ("prompt", "negative_prompt") if key in arguments}
        rows = 1
    generator = torch.Generator("cpu").manual_seed(0)
    _call(pipe, several, rows, OneStep(pipe.scheduler), generator, {}, seen, output_type="latent")
    return seen


def _call(
    pipe: DiffusionPipeline,
    arguments: Mapping[str, Any],
    copies: int,
    scheduler: OneStep,
    generator: torch.Generator,
    parts: Mapping[str, Any],
    seen: list[dict[str, Any]] | None = None,
    **options: Any,
) -> Any:
    """The pipeline call with stand-ins; None if one of them ended it."""
    silent = {name: _Silent(real, [] if seen is None else seen) for name, real in denoisers(pipe).items()}
    twin: Any = with_parts(pipe, scheduler=scheduler, **silent, **parts)
    called = {**arguments, "num_inference_steps": STEPS_ASKED_FOR}
    if "strength" in called:
        called["strength"] = QUIET["strength"]
    try:
        return twin(**called, **_copied(pipe, called, copies), **options, generator=generator, return_dict=False)
    except _SeenError:
        return None


def _quiet(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    known = parameters(pipe)
    return {**arguments, **{key: value for key, value in QUIET.items() if key in known}}


def _copied(pipe: DiffusionPipeline, arguments: Mapping[str, Any], copies: int) -> dict[str, Any]:
    if copies == 1:
        return {}
    name = next((name for name in COPIES if name in parameters(pipe)), None)
    if name is None:
        raise ValueError(f"{type(pipe).__name__} makes only one picture per prompt")
    return {name: copies}


def parameters(pipe: DiffusionPipeline) -> Mapping[str, Any]:
    """The parameters of the pipeline call."""
    kind: Any = type(pipe)
    return _parameters(kind)


@functools.lru_cache(maxsize=32)
def _parameters(kind: Any) -> Mapping[str, Any]:
    return inspect.signature(kind.__call__).parameters
