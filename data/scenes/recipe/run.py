"""Runs one stage of the recipe: `python -m data.scenes.recipe.run STAGE --config FILE --work DIR`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.bundled.recipe.common import RecipeError, load_config, open_stage
from data.scenes.recipe.pause import Pause, write_pid

STAGES = {
    "begin": ("begin", "begin"),
    "paint": ("dataset", "paint"),
    "autoencoder": ("autoencoder", "train_autoencoder"),
    "decoder": ("autoencoder", "sharpen"),
    "clip": ("clip", "train_clip"),
    "encode": ("dataset", "encode"),
    "denoiser": ("denoiser", "train_denoiser"),
    "finish": ("denoiser", "finish"),
    "export": ("export", "export"),
    "evaluate": ("evaluate", "evaluate"),
}


def read_config(path: Path) -> dict[str, Any]:
    """Return the config at `path`, laid table by table over the one beside it that its `base` names, if any."""
    config = load_config(path)
    if (base := config.pop("base", None)) is None:
        return config
    merged = read_config(path.parent / base)
    for name, value in config.items():
        merged[name] = merged.get(name, {}) | value if isinstance(value, dict) else value
    return merged


def main(
    argv: Sequence[str] | None = None,
    stages: Mapping[str, tuple[str, str]] = STAGES,
    package: str = "data.scenes.recipe",
) -> None:
    """Run the stage that the command line names.

    Args:
        argv: the command line's arguments.
        stages: name of a stage to its table in the config and its module.
        package: where the modules are.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}.run")
    parser.add_argument("stage", choices=list(stages))
    parser.add_argument("--config", type=Path, required=True, help="a TOML file such as scenes_64.toml")
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, latents and checkpoints")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--halt-file", type=Path, help="training waits while this file exists")
    parser.add_argument("--pid-file", type=Path, help="where to write the number of this process")
    options = parser.parse_args(argv)
    table, module = stages[options.stage]
    write_pid(options.pid_file)
    try:
        stage = open_stage(table, read_config(options.config), options.work, options.device)
        result = importlib.import_module(f"{package}.{module}").run(stage, Pause(options.halt_file))
    except RecipeError as error:
        parser.exit(2, f"{error}\n")
    print(f"{options.stage}: {'done' if result is None else result}")


if __name__ == "__main__":
    main()
