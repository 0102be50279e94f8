"""The lab's Python face under its well-known name: `from diffusion_scheduler_visualizer import ...`."""

from engine.visualizer import CapturedStep, DiffusionSchedulerVisualizer, Trajectory

__all__ = ["CapturedStep", "DiffusionSchedulerVisualizer", "Trajectory"]
