"""The player: one scrubber moves all lanes together in the browser, without requests to the server.

Python passes plain data once; the scripts in `browser/` draw it and insert every text as text, never as HTML.
"""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboard import loaders, state
from dashboard.cache_access import Question
from dashboard.compare.data import ALT_PROMPT_CHARACTERS, CompareScene, farthest_pair, lane_times, payload, time_line
from dashboard.components import image_places
from dashboard.loaders import Converged, InputPicture, PagePicture
from dashboard.options import Options
from dashboard.page import require_all
from engine.analysis.differences import Differences
from engine.display import html
from engine.display.formats import count
from engine.results import Results

# Streamlit takes a component's script as one text, so the files share one scope; `player` has the exports.
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


@dataclass(frozen=True)
class Loaded:
    """The data of the prompt and seed that the controls will return."""

    prompt: str
    seed: int
    kind: str
    differences: Differences
    pictures: list[PagePicture]
    converged: Converged | None
    inputs: list[InputPicture]


def load(chosen: Options, study: Results) -> Loaded:
    """Loads the differences of lanes, and the pictures of the chosen prompt and seed or of the most different ones."""
    kind, subjects = state.expected_kind(), [("", 0)]
    kinds = ["x0", "xt", "final"] if kind == "both" else [kind, "final"]

    def pictures(found: Differences) -> Question[list[PagePicture]]:
        subjects[:] = [state.expected_subject(study, found.ranked("different", framed=True))]
        cells = [study.cell(lane.key, *subjects[0]) for lane in study.lanes]
        ids = [cell.trajectory_id for cell in cells if cell.state == "done"]
        return loaders.pictures_of(ids, kinds, whole_videos=True)

    def converged(_: list[PagePicture]) -> Question[Converged | None]:
        return loaders.converged_at(study.id, *subjects[0])

    def inputs(_: Converged | None) -> Question[list[InputPicture]]:
        return loaders.inputs_of(study)

    answers = require_all(chosen.cache, loaders.differences_of(study), pictures, converged, inputs)
    return Loaded(*subjects[0], kind, *answers)


def show(study: Results, loaded: Loaded) -> None:
    """The player for one prompt and seed, with n, machine and date of its data."""
    prompt, seed, found = loaded.prompt, loaded.seed, loaded.pictures
    cells = [study.cell(lane.key, prompt, seed) for lane in study.lanes]
    ids = [cell.trajectory_id for cell in cells if cell.state == "done"]
    made = [f"Images: n = 1 prompt and seed, {len(ids)} of {count(len(cells), 'lane')}", *image_places(study)]
    measured = time_line(study.times)
    timed = f"Times: {measured}; intervals are in the Overview" if measured else "Times: not measured yet"
    notes = [" · ".join(part for part in made if part), timed]
    if len(prompt) > ALT_PROMPT_CHARACTERS:
        st.html(html.folded(f"The whole prompt, {count(len(prompt), 'character')}", prompt, "lab-soft"))
    _show_inputs(loaded.inputs)
    times = lane_times(study.times)
    scene = CompareScene(study, prompt, seed, loaded.kind, found, times, loaded.converged, notes, measured)
    _player(key="player", data=payload(scene) | {"pair": farthest_pair(study, prompt, seed, loaded.differences)})
    st.html("".join(html.footer([note]) for note in notes))


def _show_inputs(inputs: list[InputPicture]) -> None:
    """The pictures that every lane started from; of those that cannot be shown, the digest."""
    shots = [
        html.Shot(each.source, f"{each.argument} that every lane started from", f"{each.argument}: {each.file}")
        for each in inputs
        if each.source
    ]
    if shots:
        st.html(html.shots(shots))
    for each in inputs:
        if not each.source:
            st.html(html.soft(f"{each.argument}: {each.file} (not shown; SHA-256 {each.digest[:12]})"))
