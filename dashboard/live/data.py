"""What the browser gets to know of a run at one moment, as plain data. Pure."""

from collections.abc import Mapping
from typing import Any

from dashboard.images import data_uri
from engine.cache.live_state import CellPicture, LiveState
from engine.display import theme
from engine.display.formats import count, cut, far, labelled

PROMPT_CHARACTERS = 60
# A pass of the engine, as people call it.
PASSES = {
    "images": "Making pictures",
    "timing": "Taking times",
    "references": "Solving to convergence",
    "swaps": "Changing prompts on the way",
    "scores": "Measuring pictures",
}
TIMING_NOTE = "Times are being taken: this page looks only now and then, so as not to disturb them."


def payload(state: LiveState, now: float) -> dict[str, Any]:
    """Figures and tiles of a run; `now` in seconds since 1970."""
    tiles = {tile.lane: tile for tile in state.tiles}
    further = {lane: tile.label for lane, tile in tiles.items() if lane not in state.lanes}
    return {
        "line": _line(state, now),
        "share": min(state.done / state.total, 1.0) if state.total else 0.0,
        "sentence": labelled(state.sentence, state.lanes),
        "note": TIMING_NOTE if state.is_timing else "",
        "tiles": [_tile(lane, label, tiles.get(lane), state) for lane, label in (dict(state.lanes) | further).items()],
    }


def _line(state: LiveState, now: float) -> str:
    """E.g. "Making pictures: 12 of 240 cells, 165 calls a second, 40 s left; all done in 9 min at the latest"."""
    if not state.what:
        return "Loading the model"
    parts = [f"{PASSES.get(state.what, state.what.capitalize())}: {far(state.done, state.total, state.unit)}"]
    if state.calls_per_second:
        parts.append(f"{state.calls_per_second:.3g} denoiser calls a second")
    if state.seconds_left is not None:
        parts.append(f"{lasting(state.seconds_left)} left in this pass")
    if state.ends is not None:
        parts.append(f"over in {lasting(max(state.ends - now, 0))} at the latest")
    return " · ".join(parts)


def lasting(seconds: float) -> str:
    """E.g. "40 s", "9 min", "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _tile(lane: str, label: str, tile: CellPicture | None, state: LiveState) -> dict[str, Any]:
    look = theme.look(lane.partition(":")[0])
    return {
        "lane": lane,
        "label": label,
        "colour": look.colour,
        "glyph": look.glyph,
        "standing": _short(state.standings, lane),
        "waiting": "" if tile else "after calibration" if lane in state.waiting else "not begun",
        **(_shown(tile) if tile else {}),
    }


def _shown(tile: CellPicture) -> dict[str, Any]:
    finished = tile.call >= tile.calls
    return {
        "cell": f"{tile.lane} {tile.prompt} {tile.seed}",
        "prompt": cut(tile.prompt, PROMPT_CHARACTERS),
        "x0": data_uri(tile.image) or "",
        "xt": (data_uri(tile.noisy) or "") if tile.noisy else "",
        "share": tile.call / max(tile.calls, 1),
        "step": count(tile.calls, "step") if finished else f"step {tile.call} of {tile.calls}",
        "finished": finished,
    }


def _short(standings: Mapping[str, str], lane: str) -> str:
    return cut(standings.get(lane, ""), 80)
