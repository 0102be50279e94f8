"""Widget states that no browser sends, over the websocket: the server lives, and nothing is started or voted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.proto.WidgetStates_pb2 import WidgetState

from dashboard.bench.server import Server, running
from dashboard.bench.viewer import session
from engine.cache.connection import reading
from tests.dashboard import synthetic

PAGES = ("", "cost", "runs", "vote", "compare")
FORGED = {
    "trigger": {"trigger_value": True},
    "switch": {"bool_value": True},
    "not a number": {"double_value": float("nan")},
    "huge": {"int_value": -(2**62)},
    "text": {"string_value": "<script>" + "x" * 10_000},
    "json": {"json_value": '{"a": [1, {"b": null}]}'},
    "bytes": {"bytes_value": b"\xff\x00\xfe"},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forged") / "cache.duckdb"
    synthetic.write_scored(path, lanes=("ddim:50", "euler:30"), prompts=("owl", "cat"))
    return path


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[Server]:
    with running(cache, "--read-only") as found:
        yield found


def states(widgets: list[str], kind: str) -> list[WidgetState]:
    forged = [WidgetState(id=widget, **FORGED[kind]) for widget in widgets]
    lists = [WidgetState(id=widget) for widget in widgets]
    for state in lists:
        state.double_array_value.data.extend([float("inf"), -1.0])
    return [*forged, *lists[::2], WidgetState(id="$$ID-no-such-widget", string_value="x")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page or "overview")
def test_forged_states_harm_nobody(page: str, server: Server, cache: Path) -> None:
    with session(server.url) as other, session(server.url) as forger:
        before = other.view(page)
        widgets = forger.view(page).widgets
        assert widgets
        for kind in FORGED:
            assert forger.view(page, states=states(widgets, kind)).seconds < 10
        assert before.errors == []
        after = other.view(page)
        assert (after.errors, after.texts) == ([], before.texts), "another session sees what it saw"
    with session(server.url) as fresh:
        assert fresh.view(page).errors == []
    assert server.process.is_running()
    assert not Path(f"{cache}.runs").exists() or not list(Path(f"{cache}.runs").glob("*/*"))
    with reading(cache) as db:
        assert db.execute("SELECT count(*) FROM votes").fetchall() == [(0,)]
