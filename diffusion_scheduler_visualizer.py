"""The lab's Python API: `from diffusion_scheduler_visualizer import DiffusionSchedulerVisualizer`."""

from engine.visualizer import CapturedStep, DiffusionSchedulerVisualizer, Trajectory

__all__ = ["CapturedStep", "DiffusionSchedulerVisualizer", "Trajectory"]
