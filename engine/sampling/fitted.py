"""The scheduler class of fitted coefficients. Snippets contain its source, so it needs torch and diffusers alone."""

from collections.abc import Sequence

import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput


class FittedDPMSolver(DPMSolverMultistepScheduler):
    """DPM++ 2M; after each step, multiples of sample, estimate of x0 and the estimate before are added."""

    # (sample, estimate, estimate before) of each step; steps without a row are those of DPM++ 2M.
    coefficients: Sequence[Sequence[float]] = ()

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        moved: torch.Tensor = super().step(model_output, timestep, sample, generator, variance_noise, False)[0]
        if self.step_index <= len(self.coefficients):
            before, estimate = self.model_outputs[-2:]
            sample, estimate, before = (
                torch.zeros_like(sample) if each is None else each.float() for each in (sample, estimate, before)
            )
            own, now, last = self.coefficients[self.step_index - 1]
            moved = (moved.float() + own * sample + now * estimate + last * before).to(moved.dtype)
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)
