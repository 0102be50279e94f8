"""The sections of the Overview, from top to bottom."""

from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from dashboard import components, loaders, state
from dashboard.cache_access import Answer, Question
from dashboard.cost.controls import default_pricing
from dashboard.loaders import PagePicture
from engine.analysis.claims import ClaimVerdict
from engine.analysis.outcomes import StudyLane
from engine.display import html
from engine.display.formats import batch_of, count, cut, when
from engine.display.headline import Headline
from engine.display.tables import (
    STAGE_MARKS,
    VERDICT_MARKS,
    Entry,
    Row,
    claim_table,
    name_of,
    outcome_table,
    table,
    time_table,
)
from engine.display.timing_charts import MARKS, stage_chart, time_chart
from engine.results import Results

PICTURE_PROMPTS = 4
FIRST_LANES = 4
PICTURE_LANES = 12
_CLAIMS = "Common claims, put to the test"
_TIME_NOTE = "Each lane by itself, fastest first."


def top(study: Results) -> Headline:
    """The figures to see first: the lane to take, the time it saves, what it does to the images, the money."""
    prices, times = loaders.gpu_prices(), study.times
    pricing = None
    if isinstance(prices, Answer) and not times.empty:
        pricing = default_pricing(str(times["device_name"].iloc[0]), prices.value)
    found = Headline(study, pricing, price_is_known=pricing is not None and pricing.preset is not None)
    st.html(html.cards(found.figures, ("See the Cost page", _cost_page(study, found))))
    for sentence in found.reservations:
        st.html(html.soft(sentence))
    st.html(html.footer(_rests_on(study, found)))
    return found


def _cost_page(study: Results, found: Headline) -> str:
    return "cost?" + urlencode({"study": study.id, "lane": found.lane})


def _rests_on(study: Results, found: Headline) -> list[str]:
    progress, quality = study.progress, found.quality_rests_on
    outcome = [
        f"{progress.done} of {study.total} cells",
        f"{progress.failed} failed" if progress.failed else "",
        f"{progress.missing} not run" if progress.missing else "",
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
    """The verdict on each claim, where the study has the lanes."""
    if study.progress.missing:
        st.html(html.heading(_CLAIMS, "Claims are put to the test once all cells have run."))
        return
    tested = [claim for claim in found if claim.word != "not testable"]
    if not tested:
        st.html(html.heading(_CLAIMS, _reason_untested(found)))
        return
    st.html(html.heading(_CLAIMS, f"{_counted(found)}."))
    st.html(html.claims(tested))
    components.footer(study, "95 % intervals, prompts resampled")
    with st.expander("How each claim was tested"):
        st.html(html.table(claim_table(found)))


def _counted(found: Sequence[ClaimVerdict]) -> str:
    """E.g. "2 confirmed, 6 refuted, 2 undecided, 2 not testable"."""
    counts = Counter(verdict.word for verdict in found)
    return ", ".join(f"{counts[word]} {word}" for word in VERDICT_MARKS if counts[word])


def _reason_untested(found: Sequence[ClaimVerdict]) -> str:
    if not found:
        return "The known claims speak of other lanes; `python -m engine run readme_claims` puts them to the test."
    reasons = [result.reason for claim in found for result in claim.tests if result.reason]
    return f"None can be tested with this study: {reasons[0]}." if reasons else "None can be tested with this study."


def times(table: pd.DataFrame) -> None:
    """Measured times: chart, stage split and table."""
    st.html(html.heading("Time per lane", _TIME_NOTE))
    if table.empty:
        st.html(html.soft(components.NOT_TIMED))
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.html(html.legend(MARKS))
        components.chart(time_chart, table, alt="Median time of each lane, as in the table below")
        components.timing_footer(table, "95 % bootstrap interval of the median")
    with right:
        st.html(html.legend(marks=STAGE_MARKS))
        components.chart(stage_chart, table, alt="Median time of each stage, stacked for each lane")
        components.timing_footer(table, "medians of each stage by itself")
    st.html(html.table(time_table(table)))
    components.timing_footer(table, "95 % bootstrap intervals of the median and of the ratio of medians")
    if (table["settled"] != "settled").any():
        st.html(html.soft(components.UNSETTLED_NOTE))


def pictures_of(study: Results, lane: str) -> Question[list[PagePicture]]:
    """The final pictures that `final_pictures` shows."""
    prompts, lanes = study.prompts[:PICTURE_PROMPTS], _ranked(study, lane)
    cells = [study.cell(view.key, prompt, seed) for prompt in prompts for view in lanes for seed in study.seeds[:1]]
    return loaders.pictures_of([cell.trajectory_id for cell in cells if cell.state == "done"], ["final"])


def _ranked(study: Results, lane: str) -> list[StudyLane]:
    return sorted(study.lanes, key=lambda view: (view.key != study.baseline, view.key != lane))[:PICTURE_LANES]


def final_pictures(study: Results, lane: str, pictures: Sequence[PagePicture]) -> None:
    """Final pictures at the first seed: of the baseline and of one lane, the others on request."""
    if not study.prompts or not study.seeds:
        return
    prompts, seed, ranked = study.prompts[:PICTURE_PROMPTS], study.seeds[0], _ranked(study, lane)
    found = {picture.trajectory_id: picture for picture in pictures}
    rows = [
        (name_of(view, study.baseline), *(_final(study, view, prompt, seed, found) for prompt in prompts))
        for view in ranked
    ]
    st.html(html.heading("What it does to the images", "Same prompt, seed and starting noise in each column."))
    st.html(_grid(prompts, rows[:FIRST_LANES]))
    if len(rows) > FIRST_LANES:
        with st.expander(count(len(rows) - FIRST_LANES, "more lane")):
            st.html(_grid(prompts, rows[FIRST_LANES:]))
    extent = [f"{len(prompts)} of {count(len(study.prompts), 'prompt')}"]
    extent += [f"{len(rows)} of {count(len(study.lanes), 'lane')}"] if len(rows) < len(study.lanes) else []
    components.footer(study, *extent, f"seed {seed}", "a picture opens Compare")


def _grid(prompts: Sequence[str], rows: Sequence[Row]) -> str:
    columns = ["", *(cut(prompt, 60) for prompt in prompts)]
    return html.table(table("Final pictures, lanes by prompts", columns, rows, style="lab-pictures"))


def _final(study: Results, lane: StudyLane, prompt: str, seed: int, found: Mapping[str, PagePicture]) -> Entry:
    cell = study.cell(lane.key, prompt, seed)
    picture = found.get(cell.trajectory_id)
    if picture is None:
        return html.gap(cell.reason)
    alt = f"{lane.label}, final image of '{cut(prompt, state.PROMPT_CHARACTERS)}', seed {seed}"
    shot = html.Shot(picture.source, alt, small=picture.width < html.SMALL_PIXELS)
    return html.picture(shot, state.compare_choices(study, prompt, seed))


def outcome(study: Results) -> None:
    """Cells of each lane by outcome, where not all are done."""
    if study.progress.failed or study.progress.missing:
        st.html(html.heading("What was run", "Cells of each lane: every prompt with every seed."))
        st.html(html.table(outcome_table(study.lanes, study.counts, study.baseline)))
        components.footer(study, f"n = {study.total} cells")
