"""Euler, but it gives up on some pictures at the last step."""

from diffusers import EulerDiscreteScheduler


class FailingEuler(EulerDiscreteScheduler):
    def step(self, model_output, timestep, sample, *args, **kwargs):
        if self.step_index == len(self.timesteps) - 1 and float(sample.flatten()[0]) < -1.36:
            raise RuntimeError("this picture is not to its taste")
        return super().step(model_output, timestep, sample, *args, **kwargs)
