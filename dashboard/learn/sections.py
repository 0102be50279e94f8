"""The sections of the Learn page. Each says what is meant first, then shows it with what the cache has."""

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
    "The model does not paint pixels. It works on latents, a small grid of numbers, and a decoder turns the "
    "finished grid into a picture at the very end. A grid has several channels; none of them needs to be a colour.",
    "Because the grid is small, a step is cheap; and because decoding comes last, everything a scheduler does "
    "happens before there is a picture at all.",
)
FORMING = (
    "A run starts from pure noise. At each call the denoiser looks at the noisy latents and guesses the clean ones:"
    " the clean estimate, x0. The scheduler takes a step towards it, to a lower noise level, and asks again.",
    "The estimate is blurred at first: with so much noise many pictures are possible, and the guess is their average.",
)
GUIDANCE = (
    "The denoiser is asked twice at each call: once with the prompt and once without. The difference between the "
    "two answers points towards the prompt, and the guidance scale w says how far to go along it: `answer = without"
    " + w × (with − without)`. At w = 1 the plain answer remains and one question is enough.",
    "A larger w follows the prompt more closely, with more contrast and less variety. It also makes the path harder"
    " to follow, so that solvers of high order need more steps. All lanes of a study have the same w.",
)
SOLVERS = (
    "From noise to picture there is a path, and the denoiser tells its direction at any point. A scheduler chooses "
    "at which noise levels to ask, and how to go on from the answers: it is a solver of a differential equation. A "
    "first-order solver (DDIM, Euler) goes straight on; a second-order one (DPM++ 2M, UniPC, Heun) also uses how "
    "the direction has changed, and keeps closer to the path with the same number of calls.",
    "With enough calls all of them reach the same picture: the converged solution. Ancestral and SDE schedulers add"
    " new noise on the way and lead to other pictures, not to worse ones.",
)
CALLS = (
    "The cost of a run is how often the denoiser is called: the number of function evaluations, NFE. Many "
    "schedulers call it once a step, but Heun and DPM2 call it twice, and PNDM once more than it has steps. "
    "Comparing step counts flatters those; comparing NFE, or measured time, does not. This lab counts the calls at "
    "the denoiser.",
)
ONE_SCALE = (
    "it has this prompt and seed under one guidance scale only. The same study under another name adds one, for "
    "example `python -m engine run STUDY --set guidance_scale=5 --set name={name}-5`."
)
_NO_STUDY = "there is no study to show, see above."


@dataclass(frozen=True)
class ExampleCell:
    """What the pictures show: a prompt and a seed of a study, under its baseline."""

    chosen: Options
    study: Results
    prompt: str
    seed: int
    lane: StudyLane
    cell: StudyCell
    found: data.ExamplePictures

    @property
    def words(self) -> str:
        """What all pictures have in common, for their descriptions."""
        return f"'{cut(self.prompt, state.PROMPT_CHARACTERS)}', seed {self.seed}"

    def footer(self, *parts: str) -> str:
        """What stands under every figure."""
        return html.footer([*parts, self.words, *self.study.facts[:1], *components.image_places(self.study)])


def choose(chosen: Options, study: Results | None) -> ExampleCell | None:
    """The prompt and seed to look at; None without a study."""
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
    """Latent space."""
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
    """From noise to a picture."""
    st.html(html.heading("From noise to a picture"))
    st.html(html.prose(*FORMING))
    if subject is None:
        st.html(_nothing(_NO_STUDY))
        return
    for kind, words in (("xt", "what the scheduler holds (decoded)"), ("x0", "what the denoiser guesses")):
        found = [picture for picture in subject.found.own if picture.kind == kind]
        if not found:
            st.html(_nothing(f"{_why(subject)}; or its study keeps no frames of this kind."))
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
    """Classifier-free guidance."""
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
    """What a solver does."""
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
    components.footer(study, counted, spread, *study.facts[:1])


def calls(subject: ExampleCell | None) -> None:
    """NFE against steps."""
    st.html(html.heading("Steps are not calls"))
    st.html(html.prose(*CALLS))
    if subject is None:
        st.html(_nothing(_NO_STUDY))
        return
    timings = components.pick_times(subject.study).times
    st.html(html.table(calls_table(subject.study.lanes, timings, subject.study.baseline)))
    if timings.empty:
        components.footer(subject.study, "calls counted in the cells of the study")
        st.html(_nothing("times. " + components.NOT_TIMED))
        return
    components.timing_footer(timings, "calls counted; median times")
    components.chart(calls_chart, timings, alt="Median time of each lane over its denoiser calls")
    components.timing_footer(timings, "mark: median, bar: its 95 % bootstrap interval")


def _with_lanes(scores: pd.DataFrame, study: Results) -> pd.DataFrame:
    """Adds label, scheduler and nfe of the lanes; leaves out lanes whose calls are not known."""
    calls_of = {lane.key: lane.nfe for lane in study.lanes if lane.nfe}
    shown = components.with_names(scores[scores["lane"].isin(list(calls_of))], study.lanes)
    return shown.assign(nfe=[calls_of[key] for key in shown["lane"]])


def _shot(picture: PagePicture, caption: str, subject: ExampleCell) -> Shot:
    return Shot(picture.source, f"{caption}, {subject.words}", caption, small=picture.width < html.SMALL_PIXELS)


def _why(subject: ExampleCell) -> str:
    return cut(f"{subject.lane.label}: {subject.cell.reason}", 300).rstrip(".")


def _nothing(text: str) -> str:
    """What stands where the cache has nothing to show."""
    return html.soft(f"The cache has nothing for this yet: {text}")
