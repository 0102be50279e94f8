"""Sections of the Learn page; each explains a concept and illustrates it with data from the cache."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard import components, state
from dashboard.learn import data
from dashboard.loaders import PagePicture
from dashboard.options import Options
from engine.analysis.outcomes import StudyCell, StudyLane
from engine.display import html
from engine.display.formats import count, cut
from engine.display.html import Shot
from engine.display.learn_charts import calls_chart, error_chart
from engine.display.tables import calls_table
from engine.results import Results
from engine.study.cells import evenly_spaced

STRIP = 7
LATENT_SPACE = (
    "The model does not paint pixels. It works on latents, a small grid of numbers, and at the very end a decoder "
    "turns the finished grid into a picture. The grid has several channels, which need not correspond to colours.",
    "Because the grid is small, a step is cheap. And because decoding comes last, everything a scheduler does "
    "happens before there is a picture.",
)
FORMING = (
    "A run starts from pure noise. At each call the denoiser sees the noisy latents and estimates the clean ones, "
    "called x0. The scheduler takes a step towards this estimate, to a lower noise level, and calls the denoiser "
    "again.",
    "The estimate is blurred at first: with this much noise many pictures are possible, and it is their average.",
)
GUIDANCE = (
    "With most models the denoiser is evaluated twice at each call: with the prompt and without. The difference "
    "between the two predictions points towards the prompt, and the guidance scale w says how far to go in that "
    "direction: "
    "`prediction = without + w × (with − without)`. At w = 1 this is the prediction with the prompt alone, and one "
    "evaluation is enough.",
    "A larger w follows the prompt more closely, with more contrast and less variety. It also makes the path harder "
    "to follow, so that high-order solvers need more steps. All lanes of a study have the same w.",
)
SOLVERS = (
    "There is a path from noise to picture, and the denoiser gives its direction at any point. A scheduler chooses "
    "the noise levels at which to call the denoiser, and how to move on from its predictions: it solves a "
    "differential equation. A first-order solver (DDIM, Euler) moves in a straight line; a second-order one (DPM++ "
    "2M, UniPC, Heun) also uses the change of direction, and stays closer to the path with the same number of calls.",
    "With enough calls all of them reach the same picture, the converged solution. Ancestral and SDE schedulers add "
    "new noise on the way and lead to other pictures, though not to worse ones.",
)
CALLS = (
    "The cost of a run is the number of denoiser calls, or function evaluations (NFE). Many schedulers call the "
    "denoiser once per step, but Heun and DPM2 call it twice, and PNDM makes one call more than it has steps. "
    "Comparing step counts flatters those; comparing NFE or measured time does not. This lab counts the calls at the "
    "denoiser.",
)
ONE_SCALE = (
    "it has this prompt and seed with only one guidance scale. To add another one, run the same study under a "
    "different name, for example `python -m engine run STUDY --set guidance_scale=5 --set name={name}-5`."
)
_NO_STUDY = "there is no study to show; see above."


@dataclass(frozen=True)
class ExampleCell:
    """The prompt, seed and lane (the study's baseline) whose pictures are shown."""

    chosen: Options
    study: Results
    prompt: str
    seed: int
    lane: StudyLane
    cell: StudyCell
    found: data.ExamplePictures

    @property
    def words(self) -> str:
        """Prompt and seed, for alternative texts."""
        return f"'{cut(self.prompt, state.PROMPT_CHARACTERS)}', seed {self.seed}"

    def footer(self, *parts: str) -> str:
        """The line below a figure."""
        return html.footer([*parts, self.words])


def choose(chosen: Options, study: Results | None) -> ExampleCell | None:
    """Lets the reader choose a prompt and seed; None without a study."""
    if study is None or not study.prompts or not study.seeds or not study.lanes:
        return None
    left, right, _ = st.columns([3, 1, 2])
    with left:
        prompt = state.choose_prompt(study.prompts)
    with right:
        seed = state.choose_seed(study.seeds)
    lane = study.lane(study.baseline) or study.lanes[0]
    cell = study.cell(lane.key, prompt, seed)
    found = data.read(chosen.cache, cell, [study.cell(other.key, prompt, seed) for other in study.lanes])
    return ExampleCell(chosen, study, prompt, seed, lane, cell, found)


def latent_space(subject: ExampleCell | None) -> None:
    """Explains latent space."""
    st.html(html.heading("Latent space"))
    st.html(html.prose(*LATENT_SPACE))
    found = None if subject is None else subject.found.latents
    final = [] if subject is None else [picture for picture in subject.found.own if picture.kind == "final"]
    if subject is None or found is None or not final:
        st.html(_nothing(_NO_STUDY if subject is None else f"{_why(subject)}."))
        return
    picture = final[0]
    channels, height, width = found.shape
    pixels = 3 * picture.width * picture.height
    made = [
        Shot(source, f"Channel {place} of the latents of {subject.words}", f"channel {place}", small=True)
        for place, source in enumerate(found.channels, 1)
    ]
    st.html(html.shots([*made, _shot(picture, f"decoded: {picture.width} × {picture.height} pixels", subject)]))
    times = f"{pixels / found.numbers:.0f} times fewer than the {pixels:,} of the picture"
    st.html(subject.footer(f"{channels} × {height} × {width} = {found.numbers:,} numbers, {times}", subject.lane.label))


def forming(subject: ExampleCell | None) -> None:
    """Explains how a picture forms from noise."""
    st.html(html.heading("From noise to a picture"))
    st.html(html.prose(*FORMING))
    if subject is None:
        st.html(_nothing(_NO_STUDY))
        return
    for kind, words in (("xt", "noisy latents, decoded"), ("x0", "the denoiser's estimate, decoded")):
        found = [picture for picture in subject.found.own if picture.kind == kind]
        if not found:
            st.html(_nothing(f"{_why(subject)}; or the study stores no frames of this kind."))
            continue
        calls = subject.lane.nfe or subject.lane.steps
        captions = [
            (p, f"call {p.step_index + 1} of {calls}")
            for p in (found[place] for place in evenly_spaced(len(found), STRIP))
        ]
        st.html(html.soft(words.capitalize()))
        st.html(html.shots(_shot(picture, caption, subject) for picture, caption in captions))
        st.html(subject.footer(subject.lane.label))


def guidance(subject: ExampleCell | None) -> None:
    """Explains classifier-free guidance."""
    st.html(html.heading("Classifier-free guidance"))
    st.html(html.prose(*GUIDANCE))
    if subject is None:
        st.html(_nothing(_NO_STUDY))
        return
    family = subject.found.family
    found = {picture.trajectory_id: picture for picture in subject.found.guided}
    scales = zip(family["trajectory_id"], family["guidance_scale"], strict=True)
    made = [_shot(found[key], f"w = {scale:g}", subject) for key, scale in scales if key in found]
    if made:
        st.html(html.shots(made))
        st.html(subject.footer(count(len(made), "guidance scale"), subject.lane.label))
    if len(made) < 2:
        st.html(_nothing(ONE_SCALE.format(name=subject.study.id)))


def solvers(subject: ExampleCell | None) -> None:
    """Explains solvers."""
    st.html(html.heading("What a solver does"))
    st.html(html.prose(*SOLVERS))
    if subject is None:
        st.html(_nothing(_NO_STUDY))
        return
    cells = {lane.key: subject.study.cell(lane.key, subject.prompt, subject.seed) for lane in subject.study.lanes}
    found = {picture.trajectory_id: picture for picture in subject.found.finals}
    made = [
        _shot(found[cells[lane.key].trajectory_id], f"{lane.label}: {lane.nfe or lane.steps} calls", subject)
        for lane in subject.study.lanes
        if cells[lane.key].trajectory_id in found
    ]
    st.html(html.shots(made) if made else _nothing("no lane has a picture of this prompt and seed."))
    if made:
        st.html(subject.footer(f"n = 1 prompt and seed, {count(len(made), 'lane')}"))
    scores = _with_lanes(data.errors(subject.study), subject.study)
    if scores.empty:
        st.html(_nothing("how far each lane is from the converged solution. A study with a `[reference]` measures it."))
        return
    components.chart(error_chart, scores, alt="Latent error of each lane over its denoiser calls")
    study = subject.study
    counted = f"{components.extent(scores['n'])} cells per lane"
    spread = "mark: median, bar: 10 – 90 % of the cells"
    components.footer(counted, spread, *study.facts[:1])


def calls(subject: ExampleCell | None) -> None:
    """Explains the difference between steps and denoiser calls."""
    st.html(html.heading("Steps are not calls"))
    st.html(html.prose(*CALLS))
    if subject is None:
        st.html(_nothing(_NO_STUDY))
        return
    timings = components.pick_times(subject.study).times
    st.html(html.table(calls_table(subject.study.lanes, timings, subject.study.baseline)))
    if timings.empty:
        components.footer("calls counted in the study's cells")
        st.html(_nothing("times. " + components.NOT_TIMED))
        return
    components.timing_footer(timings, "calls counted; median times")
    components.chart(calls_chart, timings, alt="Median time of each lane over its denoiser calls")
    components.timing_footer(timings, "mark: median, bar: its 95 % bootstrap interval")


def _with_lanes(scores: pd.DataFrame, study: Results) -> pd.DataFrame:
    """Adds label, scheduler and nfe of the lanes; drops lanes whose calls are unknown."""
    calls_of = {lane.key: lane.nfe for lane in study.lanes if lane.nfe}
    shown = components.with_names(scores[scores["lane"].isin(list(calls_of))], study.lanes)
    return shown.assign(nfe=[calls_of[key] for key in shown["lane"]])


def _shot(picture: PagePicture, caption: str, subject: ExampleCell) -> Shot:
    return Shot(picture.source, f"{caption}, {subject.words}", caption, small=picture.width < html.SMALL_PIXELS)


def _why(subject: ExampleCell) -> str:
    return cut(f"{subject.lane.label}: {subject.cell.reason}", 300).rstrip(".")


def _nothing(text: str) -> str:
    """A note in place of missing data."""
    return html.soft(f"The cache has nothing for this yet: {text}")
