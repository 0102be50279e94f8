"""The sections of the Learn page. Each says what is meant first, then shows it with what the cache has."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard import components, loaders, markup, state
from dashboard.asking import Answer
from dashboard.learn import material, texts
from dashboard.learn.markup import Shot, calls_table, nothing, prose, shots
from dashboard.loaders import Picture
from dashboard.options import Options
from dashboard.studies import CellView, LaneView, StudyView
from engine.display.formats import count, cut
from engine.display.learn_charts import calls_chart, error_chart
from engine.study.cells import evenly_spaced

STRIP = 7
_NO_STUDY = "there is no study to show, see above."


@dataclass(frozen=True)
class Subject:
    """What the pictures show: a prompt and a seed of a study, under its baseline."""

    chosen: Options
    study: StudyView
    prompt: str
    seed: int
    lane: LaneView
    cell: CellView

    @property
    def words(self) -> str:
        """What all pictures have in common, for their descriptions."""
        return f"'{cut(self.prompt, state.PROMPT_CHARACTERS)}', seed {self.seed}"

    def footer(self, *parts: str) -> str:
        """What stands under every figure."""
        return markup.footer([*parts, self.words, *self.study.facts[:1], *components.image_places(self.study)])


def choose(chosen: Options, study: StudyView | None) -> Subject | None:
    """The prompt and seed to look at; None without a study."""
    if study is None or not study.prompts or not study.seeds or not study.lanes:
        return None
    left, right, _ = st.columns([3, 1, 2])
    with left:
        prompt = state.choose_prompt(study.prompts)
    with right:
        seed = state.choose_seed(study.seeds)
    lane = study.lane(study.baseline) or study.lanes[0]
    return Subject(chosen, study, prompt, seed, lane, study.cell(lane.key, prompt, seed))


def latent_space(subject: Subject | None) -> None:
    """Latent space."""
    st.html(markup.heading("Latent space"))
    st.html(prose(*texts.LATENT_SPACE))
    found = None if subject is None else material.latents(subject.chosen.cache, subject.cell.trajectory_id)
    final = [] if subject is None else _pictures(subject, [subject.cell.trajectory_id], ["final"])
    if subject is None or found is None or not final:
        st.html(nothing(_NO_STUDY if subject is None else f"{_why(subject)}."))
        return
    picture = final[0]
    channels, height, width = found.shape
    pixels = 3 * picture.width * picture.height
    made = [
        Shot(source, f"Channel {place} of the latents of {subject.words}", f"channel {place}", small=True)
        for place, source in enumerate(found.channels, 1)
    ]
    st.html(shots([*made, _shot(picture, f"decoded: {picture.width} × {picture.height} pixels", subject)]))
    times = f"{pixels / found.numbers:.0f} times fewer than the {pixels:,} of the picture"
    st.html(subject.footer(f"{channels} × {height} × {width} = {found.numbers:,} numbers, {times}", subject.lane.label))


def forming(subject: Subject | None) -> None:
    """From noise to a picture."""
    st.html(markup.heading("From noise to a picture"))
    st.html(prose(*texts.FORMING))
    if subject is None:
        st.html(nothing(_NO_STUDY))
        return
    for kind, words in (("xt", "what the scheduler holds (decoded)"), ("x0", "what the denoiser guesses")):
        found = [p for p in _pictures(subject, [subject.cell.trajectory_id], [kind]) if p.kind == kind]
        if not found:
            st.html(nothing(f"{_why(subject)}; or its study keeps no frames of this kind."))
            continue
        calls = subject.lane.nfe or subject.lane.steps
        captions = [(p, f"call {p.step_index + 1} of {calls}") for p in _spread(found)]
        st.html(markup.soft(words.capitalize()))
        st.html(shots(_shot(picture, caption, subject) for picture, caption in captions))
        st.html(subject.footer(subject.lane.label))


def guidance(subject: Subject | None) -> None:
    """Classifier-free guidance."""
    st.html(markup.heading("Classifier-free guidance"))
    st.html(prose(*texts.GUIDANCE))
    if subject is None:
        st.html(nothing(_NO_STUDY))
        return
    family = material.guidance_family(subject.chosen.cache, subject.cell.trajectory_id)
    found = {p.trajectory_id: p for p in _pictures(subject, list(family["trajectory_id"]), ["final"])}
    scales = zip(family["trajectory_id"], family["guidance_scale"], strict=True)
    made = [_shot(found[key], f"w = {scale:g}", subject) for key, scale in scales if key in found]
    if made:
        st.html(shots(made))
        st.html(subject.footer(count(len(made), "guidance scale"), subject.lane.label))
    if len(made) < 2:
        st.html(nothing(texts.ONE_SCALE.format(name=subject.study.id)))


def solvers(subject: Subject | None) -> None:
    """What a solver does."""
    st.html(markup.heading("What a solver does"))
    st.html(prose(*texts.SOLVERS))
    if subject is None:
        st.html(nothing(_NO_STUDY))
        return
    cells = {lane.key: subject.study.cell(lane.key, subject.prompt, subject.seed) for lane in subject.study.lanes}
    ids = [cell.trajectory_id for cell in cells.values() if cell.state == "done"]
    found = {p.trajectory_id: p for p in _pictures(subject, ids, ["final"])}
    made = [
        _shot(found[cells[lane.key].trajectory_id], f"{lane.label}: {lane.nfe or lane.steps} calls", subject)
        for lane in subject.study.lanes
        if cells[lane.key].trajectory_id in found
    ]
    st.html(shots(made) if made else nothing("no lane has a picture of this prompt and seed."))
    if made:
        st.html(subject.footer(f"n = 1 prompt and seed, {count(len(made), 'lane')}"))
    scores = _with_lanes(material.errors(subject.chosen.cache, subject.study.id), subject.study)
    if scores.empty:
        st.html(nothing("how far each lane is from the converged solution. A study with a `[reference]` measures it."))
        return
    components.chart(error_chart, scores, alt="Latent error of each lane over its denoiser calls")
    low, high = int(scores["n"].min()), int(scores["n"].max())
    cells_counted = f"n = {low} cells per lane" if low == high else f"n = {low} to {high} cells per lane"
    st.html(
        markup.footer(
            [
                cells_counted,
                "mark: median, bar: 10 – 90 % of the cells",
                *subject.study.facts[:1],
                *components.image_places(subject.study),
            ]
        )
    )


def calls(subject: Subject | None) -> None:
    """NFE against steps."""
    st.html(markup.heading("Steps are not calls"))
    st.html(prose(*texts.CALLS))
    if subject is None:
        st.html(nothing(_NO_STUDY))
        return
    timings = components.pick_timings(subject.study)
    st.html(calls_table(subject.study.lanes, timings, subject.study.baseline))
    if timings.empty:
        st.html(markup.footer(["calls counted in the cells of the study", *components.image_places(subject.study)]))
        st.html(nothing("times. " + components.NOT_TIMED))
        return
    st.html(components.timing_footer(timings, "calls counted; median times"))
    components.chart(calls_chart, timings, alt="Median time of each lane over its denoiser calls")
    st.html(components.timing_footer(timings, "mark: median, bar: its 95 % bootstrap interval"))


def _with_lanes(scores: pd.DataFrame, study: StudyView) -> pd.DataFrame:
    """Adds label, scheduler and nfe of the lanes; leaves out lanes whose calls are not known."""
    lanes = {lane.key: lane for lane in study.lanes if lane.nfe}
    shown = scores[scores["lane"].isin(list(lanes))]
    return shown.assign(
        label=[lanes[key].label for key in shown["lane"]],
        scheduler=[lanes[key].scheduler for key in shown["lane"]],
        nfe=[lanes[key].nfe for key in shown["lane"]],
    )


def _pictures(subject: Subject, ids: list[str], kinds: list[str]) -> list[Picture]:
    answer = loaders.pictures(subject.chosen.cache, [key for key in ids if key], kinds)
    return answer.value if isinstance(answer, Answer) else []


def _spread(pictures: Sequence[Picture]) -> list[Picture]:
    """About `STRIP` of the pictures, evenly spread, first and last among them."""
    return [pictures[place] for place in evenly_spaced(len(pictures), STRIP)]


def _shot(picture: Picture, caption: str, subject: Subject) -> Shot:
    return Shot(picture.source, f"{caption}, {subject.words}", caption, small=picture.width < markup.SMALL_PIXELS)


def _why(subject: Subject) -> str:
    return cut(f"{subject.lane.label}: {subject.cell.reason}", 300).rstrip(".")
