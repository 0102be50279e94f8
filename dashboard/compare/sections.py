"""The comparing player: one scrubber moves all lanes together in the browser, without asking the server.

Python hands over plain data once; the scripts in `browser/` draw it, with every text set as text, never as HTML.
"""

from pathlib import Path

import streamlit as st

from dashboard import loaders
from dashboard.compare.data import ALT_PROMPT_CHARACTERS, CompareScene, lane_times, payload, time_line
from dashboard.components import image_places
from dashboard.options import Options
from dashboard.page import require_all
from engine.display import html
from engine.display.formats import count
from engine.results import Results

# Streamlit takes one module as text, so the files share one scope; `player` holds what it exports.
_SEEN = ("dom", "scales", "address", "difference", "zoom", "tiles", "wipe", "strip", "matrix", "bar")
SCRIPTS = (*_SEEN, "gif", "painting", "downloads", "clip_files")
_HERE = Path(__file__).parent


def script() -> str:
    """The player's JavaScript as one module."""
    files = (_HERE / "browser" / f"{name}.js" for name in (*SCRIPTS, "player"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


_player = st.components.v2.component(
    "lab_player",
    html='<div class="player"></div>',
    css=(_HERE / "player.css").read_text(encoding="utf-8"),
    js=script(),
)


def show(chosen: Options, study: Results, prompt: str, seed: int, kind: str) -> None:
    """The player for one prompt and seed, and what its figures rest on."""
    cells = [study.cell(lane.key, prompt, seed) for lane in study.lanes]
    ids = [cell.trajectory_id for cell in cells if cell.state == "done"]
    found, converged = require_all(
        chosen.cache,
        loaders.pictures_of(ids, [kind, "final"], whole_videos=True),
        loaders.converged_at(study.id, prompt, seed),
    )
    made = [f"Images: n = 1 prompt and seed, {len(ids)} of {count(len(cells), 'lane')}", *image_places(study)]
    measured = time_line(study.times)
    timed = f"Times: {measured}; intervals are in the Overview" if measured else "Times: not measured yet"
    notes = [" · ".join(part for part in made if part), timed]
    if len(prompt) > ALT_PROMPT_CHARACTERS:
        st.html(html.folded(f"The whole prompt, {count(len(prompt), 'character')}", prompt, "lab-soft"))
    scene = CompareScene(study, prompt, seed, kind, found, lane_times(study.times), converged, notes, measured)
    _player(key="player", data=payload(scene))
    st.html("".join(html.footer([note]) for note in notes))
