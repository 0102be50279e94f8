"""A lab that measures what a diffusion scheduler buys."""

from typing import Any

from engine import heaps, waiting

heaps.bound()
waiting.bound()

__all__ = ["DiffusionSchedulerVisualizer"]


def __getattr__(name: str) -> Any:
    """Loads the Python API on first use, so that `import engine` stays light."""
    if name in __all__:
        from engine import visualizer

        return getattr(visualizer, name)
    raise AttributeError(f"module 'engine' has no attribute '{name}'")
