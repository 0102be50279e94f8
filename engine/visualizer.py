"""DiffusionSchedulerVisualizer: the Python API, a thin layer over the engine and its cache."""

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from PIL import Image

from engine.analysis.decision import Decision
from engine.analysis.timing_summary import COLUMNS
from engine.cache import queries
from engine.cache.connection import reading
from engine.environment import MEMORIES, Memory
from engine.errors import LabError, StudyError, did_you_mean
from engine.notebook_face import NotebookFace
from engine.passes.decide import decide_study
from engine.passes.run import run_study
from engine.passes.search_budget import parse_budget
from engine.paths import DEFAULT_CACHE
from engine.picture_files import required
from engine.progress import ProgressKind, make_progress
from engine.results import read_results
from engine.sharing.comparison_grid import check_picture_file, comparison_grid, save_picture
from engine.study.cells import frame_steps
from engine.study.configs import lane_of
from engine.study.frame_settings import FrameKind, FrameSettings
from engine.study.source import EXAMPLE_HUB_ID, find_model
from engine.study.study import Study, canonical, parse_study
from engine.study.tuned import register_tuned

# Of a table of efficiency, what one looks for first.
FIRST_COLUMNS = ["scheduler", "steps", "nfe", "median_ms", "low_ms", "high_ms"]
FIRST_COLUMNS += ["speedup", "speedup_low", "speedup_high", "n", "settled"]
FIRST_COLUMNS += ["text_ms", "denoiser_ms", "scheduler_ms", "decode_ms", "other_ms", "device_name"]


@dataclass(frozen=True)
class CapturedStep:
    """One stored step of a trajectory.

    Attributes:
        step_index: Index of the denoiser call, from 0.
        progress: (step_index + 1) / calls. Not a physical variable; compare schedulers at equal log_snr.
        timestep: As given to the denoiser.
        log_snr: Log of the signal-to-noise power ratio.
        x0: Estimate of the clean image at this step.
        xt: The noisy image at this step.
    """

    step_index: int
    progress: float
    timestep: float
    log_snr: float
    x0: Image.Image
    xt: Image.Image


@dataclass(frozen=True)
class Trajectory:
    """How one image formed: its stored steps and the final image."""

    name: str
    prompt: str
    seed: int
    nfe: int
    steps: tuple[CapturedStep, ...]
    final: Image.Image


class DiffusionSchedulerVisualizer(NotebookFace):
    """Compares schedulers on one model: same prompt, same noise, measured times.

    Everything is computed once and stored in a cache, which the dashboard can show.

    Attributes:
        scheduler_configs: The schedulers to compare, by name. Add an entry to add a scheduler:
            `{"scheduler_class": PNDMScheduler, "num_inference_steps": 35, "description": "..."}`;
            an optional "config" dict overrides values of the scheduler's configuration. In place of a class, a key of
            the table of schedulers, e.g. "tuned_mine" of a schedule that was tuned beside the cache.
    """

    def __init__(
        self,
        model: str = "bundled",
        *,
        device: str = "auto",
        memory: Memory = "standard",
        cache: str | Path = DEFAULT_CACHE,
        guidance_scale: float | None = None,
        progress: ProgressKind = "bar",
        pipe: Any = None,
    ) -> None:
        """Selects a model; it is loaded only when there is something to compute.

        Args:
            model: "bundled", "gaussian", a diffusers folder, or a hub id.
            device: "auto", "cuda", "mps" or "cpu".
            memory: "low" keeps only the active component on the GPU; "slicing" also slices attention.
            cache: The cache file.
            guidance_scale: Classifier-free guidance; by default 2 for the bundled model and 7.5 for others.
            progress: "bar", "json" or "none".
            pipe: A loaded diffusers pipeline, LoRA included, to use instead of `model`. It is not modified; its device
                and number format are used.

        Raises:
            ModelError: There is no such model.
            StudyError: Unknown value for `memory` or `progress`.
        """
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

        _check_word("memory", memory, MEMORIES)
        _check_word("progress", progress, get_args(ProgressKind))
        self.dtype = "auto"
        if pipe is not None:
            from engine.sampling.loaded import register_pipeline

            model, device = register_pipeline(pipe).name, pipe.device.type
            self.dtype = str(pipe.dtype).removeprefix("torch.")
        find_model(model)
        self.model = model
        self.device = device
        self.memory = memory
        self.cache = Path(cache)
        self.guidance_scale = guidance_scale if guidance_scale is not None else 2.0 if model == "bundled" else 7.5
        self.progress: ProgressKind = progress
        self.scheduler_configs: dict[str, dict[str, Any]] = {
            "DDIM (50 steps)": {
                "scheduler_class": DDIMScheduler,
                "num_inference_steps": 50,
                "description": "Deterministic, many small first-order steps",
            },
            "DPM-Solver++ (20 steps)": {
                "scheduler_class": DPMSolverMultistepScheduler,
                "num_inference_steps": 20,
                "description": "Second-order multistep solver",
            },
            "Euler (30 steps)": {
                "scheduler_class": EulerDiscreteScheduler,
                "num_inference_steps": 30,
                "description": "First-order, steps in noise level",
            },
        }
        hint = f"; model='{EXAMPLE_HUB_ID}' uses Stable Diffusion 1.5" if model == "bundled" else ""
        print(f"Model: {model} (guidance {self.guidance_scale:g}){hint}.")

    def capture_denoising_trajectory(
        self, prompt: str, scheduler_name: str | None = None, *, seed: int = 0, num_frames: int = 12
    ) -> Trajectory:
        """Generates one image and returns how it formed.

        Args:
            prompt: What to draw.
            scheduler_name: A key of `scheduler_configs`; the first one by default.
            seed: Seed of the initial noise.
            num_frames: Approximate number of evenly spaced steps to store.

        Raises:
            StudyError: Unknown scheduler name, or an invalid entry.
            RuntimeError: The scheduler failed on this prompt; the message is its error.
        """
        name = scheduler_name if scheduler_name is not None else next(iter(self.scheduler_configs), "")
        if name not in self.scheduler_configs:
            raise StudyError(
                f"There is no '{name}' in scheduler_configs.{did_you_mean(name, self.scheduler_configs)} "
                f"Its entries: {', '.join(self.scheduler_configs)}."
            )
        study = self._study([prompt], [seed], {name: self.scheduler_configs[name]}, 0, FrameSettings(num_frames))
        self._run(study)
        with reading(self.cache) as db:
            cell = queries.cells(db, study.name).iloc[0]
            frames = queries.frames(db, [cell["trajectory_id"]], ["x0", "xt", "final"], stills=True)
        if cell["status"] == "failed":
            raise RuntimeError(f"{name}: {cell['error']}")
        return _trajectory(name, cell, frames, study.frames)

    def create_comparison_grid(
        self,
        prompt: str,
        save_path: str | Path | None = None,
        *,
        seed: int = 0,
        columns: int = 6,
        kind: FrameKind = "x0",
        repeats: int = 5,
    ) -> Image.Image:
        """Draws how every scheduler turns the same noise into an image of the prompt, with measured times.

        Args:
            prompt: What to draw.
            save_path: Where to save the grid; the suffix selects the format.
            seed: Seed of the initial noise.
            columns: Steps shown per scheduler, besides the final image.
            kind: "x0" for the clean-image estimate, "xt" for the noisy image.
            repeats: Timing samples per scheduler.

        Returns:
            The grid as an image.

        Raises:
            StudyError: An entry of `scheduler_configs` is invalid, or no image can be written to `save_path`.
        """
        if save_path is not None:
            check_picture_file(Path(save_path))
        _check_word("kind", kind, get_args(FrameKind))
        study = self._study([prompt], [seed], self.scheduler_configs, repeats, FrameSettings(max(columns, 1)))
        self._run(study)
        grid = comparison_grid(self.cache, study.name, prompt, seed, kind, self._names(study))
        if save_path is not None:
            save_picture(grid, Path(save_path))
        return grid

    def analyze_scheduler_efficiency(
        self,
        prompts: str | Sequence[str] = ("red apple",),
        *,
        seeds: Sequence[int] = (0,),
        baseline: str | None = None,
        repeats: int = 10,
    ) -> pd.DataFrame:
        """Measures what each scheduler costs.

        Args:
            prompts: What to draw, one prompt or several; the first one is timed.
            seeds: Seeds of the initial noise.
            baseline: The entry to which speed-ups refer; the first one by default.
            repeats: Timing samples per scheduler.

        Returns:
            One row per scheduler, fastest first, timed at batch 1 in the environment timed last: name, steps, nfe
            (denoiser calls, counted), median_ms with low_ms and high_ms (95 % bootstrap interval), speedup over the
            baseline with interval, n (samples), whether they settled, milliseconds per stage, device_name, lane,
            description, and error (why pictures failed, or ""). Schedulers without a finished picture are not timed
            and come last, with n = 0.
        """
        listed = [prompts] if isinstance(prompts, str) else prompts
        study = self._study(listed, seeds, self.scheduler_configs, repeats, FrameSettings(0), baseline)
        self._run(study)
        with reading(self.cache) as db:
            results = read_results(db, study.name)
        cells = results.cells
        table = _with_untimed(results.times[COLUMNS], [lane.key for lane in study.lanes])
        failed = cells[cells["status"] == "failed"].drop_duplicates("study_lane").set_index("study_lane")["error"]
        lanes = {lane.key: lane for lane in study.lanes}
        table["scheduler"] = [self._names(study)[key] for key in table["lane"]]
        table["steps"] = [lanes[key].steps for key in table["lane"]]
        table["description"] = [lanes[key].description for key in table["lane"]]
        table["error"] = [str(failed.get(key, "")) for key in table["lane"]]
        return table[[*FIRST_COLUMNS, *(name for name in table if name not in FIRST_COLUMNS)]]

    def decide(self, prompts: Sequence[str], *, baseline: str | None = None, budget: str | None = None) -> Decision:
        """Adds prompts until it is known which scheduler can replace the baseline.

        Args:
            prompts: The pool to draw from; 30 are used for calibration, and 100 or more are needed for an answer.
            baseline: A key of `scheduler_configs`; the first one by default.
            budget: Limit in minutes ("10m"), prompts ("200p") or denoiser calls ("5000c").

        Returns:
            The decision so far: `lane`, `known`, `sentence`, and the state of each lane.

        Raises:
            StudyError: There is nothing to decide, or the baseline is unknown.
        """
        pool = list(prompts)
        if not pool:
            raise StudyError("decide needs at least one prompt.")
        study = self._study(pool[:1], (0, 1), self.scheduler_configs, 5, FrameSettings(count=0), baseline)
        with self._showing(study):
            found = decide_study(
                study,
                self.cache,
                device=self.device,
                memory=self.memory,
                progress=make_progress(self.progress),
                budget=parse_budget(budget) if budget else None,
                pool=pool,
            ).decision
        if found is None:
            raise RuntimeError("The search ended without a decision.")
        return found

    def _study(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        configs: Mapping[str, Mapping[str, Any]],
        repeats: int,
        frames: FrameSettings,
        baseline: str | None = None,
    ) -> Study:
        for problem in register_tuned(self.cache):
            warnings.warn(f"Skipped: {problem}", stacklevel=3)
        lanes = {name: lane_of(name, config) for name, config in configs.items()}
        chosen = baseline if baseline is not None else next(iter(lanes), "")
        if chosen not in lanes:
            raise StudyError(f"baseline '{chosen}' is not in scheduler_configs ({', '.join(lanes)}).")
        twins = {lane.key: name for name, lane in lanes.items()}
        if len(twins) < len(lanes):
            name = next(name for name in lanes if name not in twins.values())
            raise StudyError(f"'{name}' is the same scheduler with the same steps as '{twins[lanes[name].key]}'.")
        plain = parse_study(
            {
                "name": "visualizer",
                "model": self.model,
                "dtype": self.dtype,
                "prompts": list(prompts),
                "seeds": list(seeds),
                "guidance_scale": self.guidance_scale,
                "frames": {"count": frames.count},
                "timing": {"repeats": repeats, "warmup": 1},
                "lanes": ["ddim:1"],
            },
            "DiffusionSchedulerVisualizer",
        )
        content = canonical([self.model, list(prompts), list(seeds), list(twins), self.guidance_scale, frames.count])
        slug = re.sub(r"[^a-z0-9]+", "-", prompts[0].lower())[:40].strip("-")
        name = f"visualizer-{slug or 'prompt'}-{sha256(content.encode()).hexdigest()[:6]}"
        return replace(plain, name=name, lanes=tuple(lanes.values()), baseline=lanes[chosen].key)

    def _names(self, study: Study) -> dict[str, str]:
        """The names of scheduler_configs by lane."""
        return {lane_of(name, config).key: name for name, config in self.scheduler_configs.items()}

    def _run(self, study: Study) -> None:
        told = make_progress(self.progress)
        with self._showing(study):
            run_study(study, self.cache, device=self.device, memory=self.memory, progress=told)

    @contextlib.contextmanager
    def _showing(self, study: Study) -> Iterator[None]:
        """Makes a study the one that is shown from now on, unless it is refused."""
        before, self._shown = self._shown, study.name
        try:
            yield
        except LabError:
            self._shown = before
            raise


def _with_untimed(table: pd.DataFrame, lanes: Sequence[str]) -> pd.DataFrame:
    """Appends a row without samples for each lane that could not be timed."""
    untimed = [lane for lane in lanes if lane not in set(table["lane"])]
    timed = len(table)
    table = table.reindex(range(timed + len(untimed)))
    table.loc[timed:, "lane"] = untimed
    table.loc[timed:, "settled"] = "too few"
    table["n"] = pd.to_numeric(table["n"]).fillna(0).astype(int)
    return table


def _check_word(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise StudyError(f"{name} must be one of {', '.join(known)}, not {value!r}.{did_you_mean(str(value), known)}")


def _trajectory(name: str, cell: pd.Series, frames: pd.DataFrame, settings: FrameSettings) -> Trajectory:
    """The trajectory with the requested number of steps; an earlier call may have stored more."""

    kinds = {kind: group.set_index("step_index") for kind, group in frames.groupby("kind")}
    steps = (
        tuple(
            CapturedStep(
                int(index),
                row["progress"],
                row["timestep"],
                row["log_snr"],
                required(row["image"]),
                required(kinds["xt"].loc[index, "image"]),
            )
            for index, row in kinds["x0"].iloc[frame_steps(settings, len(kinds["x0"]))].iterrows()
        )
        if "x0" in kinds
        else ()
    )
    final = required(kinds["final"].iloc[0]["image"])
    return Trajectory(name, cell["prompt"], int(cell["seed"]), int(cell["nfe"]), steps, final)
