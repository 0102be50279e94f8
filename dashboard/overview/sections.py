"""The sections of the Overview, from top to bottom."""

from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st

from dashboard import access, components, loaders, state
from dashboard.cache_access import Answer, Question
from dashboard.cost.controls import default_pricing
from dashboard.jobs import starting
from dashboard.loaders import PagePicture
from dashboard.options import Options
from dashboard.overview.controls import choose_likeness
from engine.analysis.claims import ClaimVerdict
from engine.analysis.decision import BATCH
from engine.analysis.differences import Differences, Likeness
from engine.analysis.outcomes import StudyLane
from engine.display import html
from engine.display.difference_tables import pair_table, prompt_table
from engine.display.formats import batch_of, count, cut, known, number, when
from engine.display.headline import Headline
from engine.display.tables import (
    STAGE_MARKS,
    VERDICT_MARKS,
    Entry,
    Row,
    TableCell,
    claim_table,
    outcome_table,
    table,
    time_table,
)
from engine.display.timing_charts import MARKS, stage_chart, time_chart
from engine.errors import LabError
from engine.results import Results

PICTURE_SUBJECTS = 3
PICTURE_LANES = 16
SHOWN_PAIRS = 20
_PICTURES_NOTE = "Same prompt, seed and starting noise in each row; a picture opens Compare."
_CLAIMS = "Common claims, put to the test"
_TIME_NOTE = "Each lane alone, fastest first."


def top(study: Results) -> Headline:
    """The headline figures: the recommended lane, the time it saves, its effect on the images, and the cost."""
    prices, times = loaders.gpu_prices(), study.times
    pricing = None
    if isinstance(prices, Answer) and not times.empty:
        pricing = default_pricing(str(times["device_name"].iloc[0]), prices.value)
    found = Headline(study, pricing, price_is_known=pricing is not None and pricing.preset is not None)
    figures = found.figures[:1] if found.is_empty else found.figures
    st.html(html.cards(figures, ("See the Cost page", _cost_page(study, found))))
    for sentence in found.reservations:
        st.html(html.soft(sentence))
    st.html(html.footer(_rests_on(study, found)))
    return found


def more_prompts(chosen: Options, study: Results) -> None:
    """How many more prompts may settle an open lane, with a button to run them if runs are allowed."""
    prompts = prompts_that_would_tell(study)
    if not prompts:
        return
    rights = access.of_session(chosen)
    if rights.may_run and not starting.engine_lacks() and starting.known_study(chosen, study.id, study.spec):
        label = f"Look at {prompts:,} more prompts"
        st.button(label, key="more_prompts", on_click=_decide, args=(chosen, study, f"{prompts}p"))
        if refused := st.session_state.pop("more_refused", None):
            st.html(html.note("That is not possible", refused))
    else:
        st.html(html.soft(f"`python -m engine decide STUDY --budget {prompts}p` looks at {prompts:,} more prompts."))


def prompts_that_would_tell(study: Results) -> int:
    """The fewest further prompts, in whole batches, that may settle a lane; 0 if nothing is open."""
    more = study.decision.needed if study.decision else None
    return -(-more // BATCH) * BATCH if more else 0


def _decide(chosen: Options, study: Results, budget: str) -> None:
    try:
        starting.decide(chosen, study.id, budget, study.spec)
    except LabError as error:
        st.session_state["more_refused"] = str(error)


def _cost_page(study: Results, found: Headline) -> str:
    return "cost?" + urlencode({"study": study.id, "lane": found.lane})


def _rests_on(study: Results, found: Headline) -> list[str]:
    progress, quality = study.progress, found.quality_rests_on
    outcome = [
        count(progress.done, "cell") if study.decision else f"{progress.done:,} of {study.total:,} cells",
        f"{progress.failed:,} failed" if progress.failed else "",
        f"{study.awaited:,} not run" if study.awaited else "",
    ]
    parts = [", ".join(filter(None, outcome)), quality]
    times = study.times
    times = times[times["lane"] == found.lane]
    for _, timed in times.iterrows():
        parts += [
            f"times: n = {timed['n']}, {batch_of(timed['batch_size'])}",
            str(timed["device_name"]),
            when(timed["last_at"]),
        ]
    return [*parts, "95 % bootstrap intervals of times"] if len(times) else parts


def tested_claims(study: Results, found: Sequence[ClaimVerdict]) -> None:
    """The verdict on each claim about lanes of the study."""
    if study.awaited:
        st.html(html.heading(_CLAIMS, "Claims are tested once all cells have run."))
        return
    tested = [claim for claim in found if claim.word != "not testable"]
    if not tested:
        st.html(html.heading(_CLAIMS, _reason_untested(found)))
        return
    st.html(html.heading(_CLAIMS, f"{_counted(found)}."))
    st.html(html.claims(tested))
    components.footer("95 % bootstrap intervals over prompts")
    with st.expander("How each claim was tested"):
        st.html(html.table(claim_table(found)))


def _counted(found: Sequence[ClaimVerdict]) -> str:
    """E.g. "2 confirmed, 6 refuted, 2 undecided, 2 not testable"."""
    counts = Counter(verdict.word for verdict in found)
    return ", ".join(f"{counts[word]} {word}" for word in VERDICT_MARKS if counts[word])


def _reason_untested(found: Sequence[ClaimVerdict]) -> str:
    if not found:
        return "The known claims are about other lanes; `python -m engine run readme_claims` tests them."
    reasons = [result.reason for claim in found for result in claim.tests if result.reason]
    return f"None can be tested with this study: {reasons[0]}." if reasons else "None can be tested with this study."


def times(study: Results) -> None:
    """Measured times: chart, stage split and table."""
    table = study.times
    st.html(html.heading("Time per lane", _TIME_NOTE))
    if table.empty:
        st.html(html.soft(components.NOT_TIMED))
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.html(html.legend(MARKS))
        components.chart(time_chart, table, alt="Median time of each lane, as in the table below")
    with right:
        st.html(html.legend(marks=STAGE_MARKS))
        components.chart(stage_chart, table, alt="Median time of each stage, stacked for each lane")
    st.html(html.table(time_table(table)))
    components.timing_footer(table, "medians and ratios with 95 % bootstrap intervals")
    if load := _other_load(study):
        st.html(html.soft(load))
    if (table["settled"] != "settled").any():
        st.html(html.soft(components.UNSETTLED_NOTE))


def _other_load(study: Results) -> str:
    """The load of other processes while the times shown were taken; empty if it was not recorded."""
    samples = study.samples
    first = study.times.iloc[0]
    shown = (samples["environment_id"] == first["environment_id"]) & (samples["batch_size"] == first["batch_size"])
    load = samples[shown & (samples["stage"] == "total")]["other_load"].dropna()
    if load.empty:
        return ""
    return f"Other processes used {number(load.median())} cores during these measurements (median, n = {len(load)})."


def pictures_of(study: Results, lane: str, found: Differences, likeness: Likeness) -> Question[list[PagePicture]]:
    """The pictures for `final_pictures`."""
    lanes = _ranked(study, lane)
    cells = [study.cell(view.key, *subject) for subject in _subjects(study, found, likeness) for view in lanes]
    return loaders.pictures_of([cell.trajectory_id for cell in cells if cell.state == "done"], ["final"])


def _subjects(study: Results, found: Differences, likeness: Likeness) -> list[tuple[str, int]]:
    """The prompts and seeds that are shown."""
    ranked = found.ranked(likeness)
    return (ranked or [(prompt, seed) for prompt in study.prompts for seed in study.seeds[:1]])[:PICTURE_SUBJECTS]


def _ranked(study: Results, lane: str) -> list[StudyLane]:
    return sorted(study.lanes, key=lambda view: (view.key != study.baseline, view.key != lane))[:PICTURE_LANES]


def final_pictures(
    study: Results, lane: str, found: Differences, pictures: Sequence[PagePicture], likeness: Likeness
) -> None:
    """Final pictures of all lanes, by default for the prompts where lanes differ most."""
    if not study.prompts or not study.seeds:
        return
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        st.html(html.heading("What it does to the images", _PICTURES_NOTE))
    with right:
        choose_likeness()
    lanes, shown = _ranked(study, lane), {picture.trajectory_id: picture for picture in pictures}
    others = {(row.lane, row.prompt, row.seed) for row in found.others.itertuples()}
    rows: list[Row] = []
    for prompt, seed in _subjects(study, found, likeness):
        went = sum((view.key, prompt, seed) in others for view in lanes)
        below = (f"seed {seed}", *([f"another picture in {count(went, 'lane')}"] if went else []))
        entries = [
            _final(study, view, (prompt, seed), shown, other=(view.key, prompt, seed) in others) for view in lanes
        ]
        rows.append((TableCell(cut(prompt, 60), below=below), *entries))
    columns = ["", *(view.label for view in lanes)]
    st.html(html.table(table("Final pictures, prompts by lanes", columns, rows, style="lab-pictures lab-lanes")))
    if len(lanes) < len(study.lanes):
        st.html(html.soft(f"{len(lanes)} of {count(len(study.lanes), 'lane')}; Compare shows all."))


def _final(
    study: Results, lane: StudyLane, subject: tuple[str, int], found: Mapping[str, PagePicture], *, other: bool
) -> Entry:
    prompt, seed = subject
    cell = study.cell(lane.key, prompt, seed)
    picture = found.get(cell.trajectory_id)
    if picture is None:
        return html.gap(cell.reason)
    alt = f"{lane.label}, final image of '{cut(prompt, state.PROMPT_CHARACTERS)}', seed {seed}"
    caption = "another picture" if other else ""
    shot = html.Shot(picture.source, alt, caption, small=picture.width < html.SMALL_PIXELS)
    return html.picture(shot, state.compare_choices(study, prompt, seed))


def elsewhere(study: Results, found: Differences) -> None:
    """The cells that became another picture, and how often that happens for each prompt."""
    if found.table.empty:
        return
    others = found.others
    with st.expander(f"{count(len(others), 'picture')} of {len(found.table):,} differ entirely from the baseline's"):
        left, right = st.columns(2, gap="large")
        with left:
            st.html(html.heading("Prompts", "By the number of lanes with another picture, then by distance."))
            st.html(html.table(prompt_table(found.prompts.head(SHOWN_PAIRS))))
        with right:
            st.html(html.heading("Pairs", "Largest distance first. Distance: relative L2 of the final latents."))
            labels = study.lane_labels
            st.html(html.table(pair_table(others.head(SHOWN_PAIRS), labels)))
        if found.left_out:
            st.html(
                html.soft(f"{found.left_out:,} more prompts and seeds are not looked at: their latents do not fit.")
            )
        half = found.scale / 2
        if known(half):
            st.html(
                html.soft(
                    f"Another picture: a distance above {half:.2g}, half the median distance between the baseline's "
                    "pictures of two prompts from the same noise."
                )
            )


def outcome(study: Results) -> None:
    """Cells of each lane by outcome; nothing if all are done."""
    if study.progress.failed or study.awaited:
        st.html(html.heading("What was run", "Cells of each lane: every prompt with every seed."))
        st.html(html.table(outcome_table(study.lanes, study.counts, study.baseline)))
        components.footer(f"n = {study.total} cells")
