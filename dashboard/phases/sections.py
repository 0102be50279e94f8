"""The sections of the Phases page."""

from math import isfinite

import pandas as pd
import streamlit as st

from dashboard import components
from dashboard.phases import data
from dashboard.phases.controls import MEASURES, Choice
from dashboard.phases.data import Changes, Pictures, Shown, older
from engine.analysis.claims import ClaimVerdict
from engine.analysis.commitment import Commitment
from engine.analysis.outcomes import StudyLane
from engine.analysis.phases import Axis
from engine.display import html
from engine.display.formats import NONE, count, cut, when
from engine.display.headline import Figure
from engine.display.phase_charts import (
    LOG_SNR,
    SPAN_MARKS,
    commitment_chart,
    curve_chart,
    octave_chart,
    path_chart,
    span_chart,
)
from engine.display.phase_tables import CLAIMED, border_table, clip_table, commitment_table, interval, place, swap_table
from engine.display.tables import VERDICT_MARKS, claim_figure, name_of
from engine.results import Results

CLAIMS = ("critical-phase", "middle-does-the-work", "last-fifth", "recognisable", "close")
BAND = "line: median; band: 10 – 90 % of runs"
PATH = (
    "The path is how x0, the estimate of the clean image, moves from call to call. The same noise level is reached at "
    "another percentage of the calls if the steps are spaced differently; “More” shows both axes."
)
RULER = "Below each chart: where a lane has done 20, 40, 60 and 80 % of its calls."
COMMITMENT = (
    "A run starts with one prompt and changes to another. If the picture shows the second, it was not yet decided."
)
CLIPS = (
    "Motion has settled once its energy stays within 10 % of its final value; appearance once 90 % of the gain in CLIP "
    "similarity to the final clip is reached."
)
NO_COMMITMENT = (
    "Not measured in this study. `python -m engine run commitment` swaps the prompt at several points of the run, as "
    "does any study with a `[commitment]` table."
)


def top(shown: Shown, claims: tuple[ClaimVerdict, ...]) -> None:
    """The headline: where x0 changes most, when the picture is recognisable, and the verdict on the claim."""
    lane = next((lane for lane in shown.lanes if lane.key == shown.study.baseline), shown.lanes[0])
    cards = []
    ends = [shown.measured.get((lane.key, f"critical_50_{side}")) for side in ("start", "end")]
    if all(end is not None and "progress" in end.figures for end in ends):
        figures = [end.figures["progress"] for end in ends if end is not None]
        value = f"{100 * figures[0].value:.0f} – {100 * figures[1].value:.0f} %"
        levels = " to ".join(
            place(end.figures["log_snr"], "log_snr") for end in ends if end and "log_snr" in end.figures
        )
        spans = " to ".join(f"[{interval(figure, 'progress')}]" for figure in figures if isfinite(figure.low))
        told = f"95 % intervals {spans}" if spans else "too few prompts for an interval"
        note = f"of the calls, {told}; log-SNR {levels}; n = {figures[0].n} prompts"
        cards.append(Figure(f"Half of all change, {lane.label}", value, note))
    for key, name in (("recognisable", "Recognisable from"), ("close", "Near its final picture from")):
        border = shown.measured.get((lane.key, key))
        if border is not None and "progress" in border.figures:
            figure = border.figures["progress"]
            spread = interval(figure, "progress")
            told = "too few prompts for an interval" if spread == NONE else f"95 % interval {spread}"
            note = f"of the calls; {told}, n = {count(figure.n, 'prompt')}"
            cards.append(Figure(f"{name}, {lane.label}", f"{100 * figure.value:.0f} %", note))
    claim = next((claim for claim in claims if claim.key == "critical-phase"), None)
    if claim is not None:
        word = f"{VERDICT_MARKS[claim.word]} {claim.word.capitalize()}"
        cards.append(Figure("“The critical phase is 40 – 80 %”", word, claim_figure(claim)))
    st.html(html.figures(cards))


def where(shown: Shown) -> None:
    """Where the phases lie per lane, in progress."""
    st.html(html.heading("Where the phases lie", PATH))
    st.html(html.legend(SPAN_MARKS))
    _span_chart(shown, "progress", "Progress (share of calls)", CLAIMED)


def where_by_level(shown: Shown) -> None:
    """Where the phases lie in log-SNR, and the table of all borders."""
    _span_chart(shown, "log_snr", LOG_SNR, None)
    st.html(html.table(border_table(shown.lanes, shown.measured, shown.study.baseline)))
    lowest = min((row.figures["progress"].n for row in shown.measured.values() if "progress" in row.figures), default=0)
    components.footer(f"n = {count(lowest, 'prompt')} or more", "means over prompts, [95 % bootstrap intervals]")


def _span_chart(shown: Shown, axis: Axis, title: str, claimed: tuple[float, float] | None) -> None:
    spans = _spans(shown, axis)
    if spans.empty:
        return
    alt = f"Critical phases of each lane, {title}, as in the table of borders"
    components.chart(span_chart, spans, title, axis, claimed, alt=alt)
    prompts, runs = int(spans["prompts"].max()), int(spans["runs"].max())
    extent = f"n = {count(prompts, 'prompt')}, {count(runs, 'run')} per lane"
    components.footer(extent, "95 % bootstrap intervals over prompts")


def _spans(shown: Shown, axis: Axis) -> pd.DataFrame:
    rows = []
    for lane in shown.lanes:
        keys = {
            "start_50": "critical_50_start",
            "end_50": "critical_50_end",
            "start_80": "critical_80_start",
            "end_80": "critical_80_end",
            "half": "half_path",
        }
        found = {name: shown.measured.get((lane.key, key)) for name, key in keys.items()}
        figures = {name: row.figures[axis] for name, row in found.items() if row is not None and axis in row.figures}
        if len(figures) < len(keys):
            continue
        row = {name: figure.value for name, figure in figures.items()}
        for name in ("start_50", "end_50"):
            row |= {f"{name}_low": figures[name].low, f"{name}_high": figures[name].high}
        rows.append(
            {
                "label": lane.label,
                "scheduler": lane.scheduler,
                **row,
                "prompts": figures["half"].n,
                "runs": figures["half"].pairs,
            }
        )
    return pd.DataFrame(rows)


def tested(claims: tuple[ClaimVerdict, ...]) -> None:
    """Common claims about phases, with their verdicts."""
    known = [claim for claim in claims if claim.key in CLAIMS and claim.word != "not testable"]
    if not known:
        return
    st.html(html.heading("Common claims about phases", "Hypotheses and bounds were fixed in advance."))
    st.html(html.claims(known))
    components.footer("95 % bootstrap intervals over prompts")


def forming(shown: Shown, choice: Choice) -> None:
    """Likeness, speed, recognisability and guidance energy over log-SNR."""
    st.html(html.heading("How the picture forms", f"From noise on the left to the picture on the right. {RULER}"))
    st.html(html.legend(marks=map(name_of, shown.lanes)))
    left, right = st.columns(2, gap="large")
    with left:
        _likeness(shown, choice)
    with right:
        title = "Share of the path per unit of log-SNR (speed of x0)"
        _curve(shown, data.SPEED, title, ".0%", "No change from call to call was recorded.")
    left, right = st.columns(2, gap="large")
    with left:
        metric = next((key for key in data.SHARES if not shown.curve(key).empty), "recognised")
        band = "95 % interval over prompts"
        footer = f"line: mean over runs; band: {band}"
        _curve(shown, metric, data.SHARES[metric], ".0%", _unscored(shown), band=band, footer=footer)
    with right:
        _curve(shown, "guidance_energy", "Guidance energy: effect of the prompt (0: none)", ".2~f", _no_guidance(shown))


def _likeness(shown: Shown, choice: Choice) -> None:
    name, title = MEASURES[choice.measure]
    reasons = dict(zip(shown.described["metric"], shown.described["unavailable"], strict=True))
    reason = reasons.get(choice.measure)
    missing = f"{name} has not been measured for these lanes. `python -m engine run` of the study measures its frames."
    _curve(shown, choice.measure, title, ".3~g", f"{name}: {reason}." if isinstance(reason, str) else missing)


def _curve(
    shown: Shown,
    metric: str,
    title: str,
    value_format: str,
    missing: str,
    *,
    band: str = "10 – 90 % of runs",
    footer: str = BAND,
) -> None:
    curve = shown.curve(metric)
    if curve.empty:
        st.html(html.soft(f"{title}."))
        st.html(html.soft(missing))
        return
    ruler = shown.ruler[shown.ruler["lane"].isin(set(curve["lane"]))]
    alt = f"{title}, over log-SNR, one line per lane"
    components.chart(curve_chart, curve, ruler, title, value_format, band, alt=alt)
    st.html(shown.footer(curve, footer))


def clips(shown: Shown) -> None:
    """When motion and appearance of clips settle, and which comes first; nothing for pictures."""
    measured = [phases for lane in shown.lanes for phases in shown.found[lane.key].clips]
    if not measured:
        return
    st.html(html.heading("Motion and appearance", CLIPS))
    left, right = st.columns([1, 1.25], gap="large")
    with left:
        title = "Motion energy of x0 (mean squared difference of neighbouring frames)"
        _curve(shown, "motion_energy", title, ".3~g", older("Motion energy"))
    with right:
        st.html(html.table(clip_table(shown.lanes, measured, shown.study.baseline)))
        lowest = min(phases.motion["step"].n for phases in measured)
        basis = "means over prompts, [95 % bootstrap intervals]; motion and appearance of a run at the same steps"
        components.footer(f"n = {count(lowest, 'prompt')} or more", basis)


def spectrum(shown: Shown, choice: Choice) -> None:
    """The distance of each octave of x0 to the final one."""
    lane = next((lane for lane in shown.lanes if lane.key == choice.lane), shown.lanes[0])
    st.html(html.heading(f"Spectrum: {lane.label}", "Octaves, from few cycles per side of the latents to many."))
    curve = shown.curves[(shown.curves["lane"] == lane.key) & shown.curves["metric"].str.startswith("octave_")]
    if curve.empty:
        st.html(html.soft(older("The spectrum of x0")))
        return
    ruler = shown.ruler[shown.ruler["lane"] == lane.key]
    title = "Distance of each octave to the final one (0: equal)"
    components.chart(octave_chart, curve, ruler, title, alt=f"{title}, over log-SNR, {lane.label}")
    st.html(shown.footer(curve, "line: median; band of the coarsest and finest: 10 – 90 % of runs"))


def paths(shown: Shown, choice: Choice) -> None:
    """The path of x0 on three principal components shared by all lanes."""
    subject = f"“{cut(choice.prompt, 50)}”, seed {choice.seed}"
    st.html(html.heading("The path of x0", f"{subject}: principal components over all lanes. Ring: start. Mark: end."))
    found = shown.paths
    if found is None:
        st.html(html.soft(older("The path of x0")))
        return
    points = components.with_names(found.points, shown.lanes)
    st.html(html.legend(marks=[name_of(lane) for lane in shown.lanes if lane.key in set(points["lane"])]))
    for column, axes in zip(st.columns(2), ((1, 2), (1, 3)), strict=True):
        with column:
            alt = f"Paths of x0 on components {axes[0]} and {axes[1]}, one line per lane"
            components.chart(path_chart, points, axes, found.explained, alt=alt)
    extent = f"n = {count(len(shown.lanes), 'run')}, {len(points)} steps"
    basis = f"{sum(found.explained):.0%} of the variance; from sketches of the latents, distances accurate to about 6 %"
    components.footer(extent, basis)


def _no_guidance(shown: Shown) -> str:
    scale = shown.study.cells["guidance_scale"].max()
    if scale <= 1:
        return f"Guidance is off in this study (guidance {scale:g}), so its energy can't be measured."
    return older("Guidance energy")


def _unscored(shown: Shown) -> str:
    return (
        "No x0 frame of these lanes has been scored. `python -m engine score STUDY`, with the study's file, scores "
        "them if the study stores x0 frames and there is a CLIP for the model's pictures."
    )


def commitment(study: Results, choice: Choice, changes: Changes) -> None:
    """When a run is committed to its prompt."""
    st.html(html.heading("When the picture is decided", COMMITMENT))
    found, pictures = changes.found, changes.pictures
    if found is None:
        st.html(html.soft(NO_COMMITMENT))
        return
    lanes = [lane for lane in study.lanes if lane.key in choice.lanes and lane.key in set(found.curve["lane"])]
    if not lanes:
        st.html(html.soft("Measured, but not for these lanes."))
        return
    measured = found.curve[found.curve["lane"].isin([lane.key for lane in lanes])]
    curve = components.with_names(measured, lanes)
    left, right = st.columns([1, 1.15], gap="large")
    with left:
        st.html(html.legend(marks=map(name_of, lanes)))
        title = f"Runs that keep their first prompt (by {found.by})"
        components.chart(commitment_chart, curve, title, alt=f"{title}, over the log-SNR at which the prompt changed")
        st.html(_commitment_footer(found, "95 % intervals over pairs"))
    with right:
        st.html(html.table(commitment_table(lanes, found)))
        basis = "means over pairs, 95 % bootstrap intervals; left out: runs that follow one prompt throughout"
        st.html(_commitment_footer(found, basis))
    _example(found, lanes, pictures, choice)


def _example(found: Commitment, lanes: list[StudyLane], pictures: Pictures, choice: Choice) -> None:
    """The final pictures of one pair of prompts: that of the chosen prompt and seed, if there is one."""
    pairs = list(dict.fromkeys((first, second, seed) for _, first, second, seed, _ in pictures))
    if not pairs:
        return
    asked = min(pairs, key=lambda pair: (choice.prompt not in pair[:2], choice.seed != pair[2]))
    shown = {(lane, share): source for (lane, *pair, share), source in pictures.items() if tuple(pair) == asked}
    first, second = (cut(prompt, 60) for prompt in asked[:2])
    st.html(html.soft(f"“{first}” for a share of the calls, then “{second}”; seed {asked[2]}:"))
    shares = sorted({share for _, share in shown})
    st.html(html.table(swap_table(lanes, shares, shown, (first, second))))
    st.html(_commitment_footer(found, "one pair as an example"))


def _commitment_footer(found: Commitment, interval: str) -> str:
    pairs, runs = int(found.curve["pairs"].max()), int(found.curve["runs"].max())
    failed = f"{count(found.failed, 'run')} failed" if found.failed else ""
    extent = f"n = {count(pairs, 'pair')} of prompts, {count(runs, 'run')} at each point"
    return html.footer([extent, failed, interval, ", ".join(found.places), when(found.made)])
