"""The comparing player: one scrubber moves all lanes together in the browser, without asking the server.

Python hands over plain data once; `player.js` draws it, with every text set as text, never as HTML.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import loaders, markup
from dashboard.components import image_places
from dashboard.loaders import Picture
from dashboard.options import Options
from dashboard.page import require
from dashboard.studies import CellView, LaneView, StudyView
from engine.display import theme
from engine.display.formats import count, cut, duration, when, whole

KIND_NAMES = {"x0": "clean estimate", "xt": "noisy image"}
ALT_PROMPT_CHARACTERS = 120

_HERE = Path(__file__).parent
_player = st.components.v2.component(
    "lab_player",
    html='<div class="player"></div>',
    css=(_HERE / "player.css").read_text(encoding="utf-8"),
    js=(_HERE / "player.js").read_text(encoding="utf-8"),
)


def show(chosen: Options, study: StudyView, timings: pd.DataFrame, prompt: str, seed: int, kind: str) -> None:
    """The player for one prompt and seed, and what its figures rest on."""
    cells = {lane.key: study.cell(lane.key, prompt, seed) for lane in study.lanes}
    ids = [cell.trajectory_id for cell in cells.values() if cell.state == "done"]
    found = require(lambda: loaders.pictures(chosen.cache, ids, [kind, "final"])).value
    times, environment = median_times(timings)
    if len(prompt) > ALT_PROMPT_CHARACTERS:
        st.html(markup.soft(f"The whole prompt has {count(len(prompt), 'character')}: {cut(prompt, 400)}"))
    data = payload(study.lanes, cells, found, times, prompt=prompt, seed=seed, kind=kind, baseline=study.baseline)
    _player(key="player", data=data)
    done = sum(cell.state == "done" for cell in cells.values())
    made = [f"Images: n = 1 prompt and seed, {done} of {count(len(cells), 'lane')}", *image_places(study)]
    st.html(markup.footer(made) + markup.footer([environment or "Times: not measured yet"]))


def median_times(table: pd.DataFrame) -> tuple[dict[str, str], str]:
    """Median time of each lane, and a line that says where and when it was measured."""
    if table.empty:
        return {}, ""
    batch, device = int(table["batch_size"].iloc[0]), table["device_name"].iloc[0]
    text = f"medians for a batch of {batch} on {device}, {when(table['last_at'].max())}; intervals are in the Overview"
    times = {row.lane: f"{duration(row.median_ms)} (n {row.n})" for row in table.itertuples()}
    return times, f"Times: {text}"


def payload(
    lanes: Sequence[LaneView],
    cells: Mapping[str, CellView],
    pictures: Sequence[Picture],
    times: Mapping[str, str],
    *,
    prompt: str,
    seed: int,
    kind: str,
    baseline: str,
) -> dict[str, Any]:
    """What the browser needs: for each lane its frames in order, its final picture, or why there are none."""
    by_cell: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_cell.setdefault(picture.trajectory_id, []).append(picture)
    subject = f"'{cut(prompt, ALT_PROMPT_CHARACTERS)}', seed {seed}"
    rows = []
    for lane in lanes:
        cell, look = cells[lane.key], theme.look(lane.scheduler)
        own = by_cell.get(cell.trajectory_id, [])
        frames = [_frame(picture, lane) for picture in own if picture.kind == kind]
        final = next((picture.source for picture in own if picture.kind == "final"), None)
        rows.append({
            "label": lane.label, "colour": look.colour, "glyph": look.glyph, "baseline": lane.key == baseline,
            "facts": [f"{lane.steps} steps", f"NFE {whole(lane.nfe)}", times.get(lane.key, "not timed")],
            "frames": frames, "final": final, "why": _why(cell, frames, kind),
        })  # fmt: skip
    sizes = [picture.width for picture in pictures]
    return {
        "lanes": rows,
        "kind": KIND_NAMES[kind],
        "subject": subject,
        "small": bool(sizes) and max(sizes) < markup.SMALL_PIXELS,
        "byNoise": _has_noise_levels(rows),
    }


def _frame(picture: Picture, lane: LaneView) -> dict[str, Any]:
    return {
        "src": picture.source,
        "step": picture.step_index + 1,
        "calls": lane.nfe or lane.steps,
        "progress": picture.progress,
        "logSnr": None if picture.log_snr is None or pd.isna(picture.log_snr) else picture.log_snr,
    }


def _why(cell: CellView, frames: Sequence[object], kind: str) -> str:
    if cell.state != "done":
        return cut(cell.reason, 400)
    return "" if frames else f"No {KIND_NAMES[kind]} was recorded (see [frames] in the study)"


def _has_noise_levels(rows: Sequence[Mapping[str, Any]]) -> bool:
    frames = [frame for row in rows for frame in row["frames"]]
    return bool(frames) and all(frame["logSnr"] is not None for frame in frames)
