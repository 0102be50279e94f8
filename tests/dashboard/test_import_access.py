"""What a running server does with a cache that is sent to it, by who may take it over and by who may not."""

import http.cookiejar
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest
from streamlit.proto.Common_pb2 import FileUploaderState, UploadedFileInfo
from streamlit.proto.WidgetStates_pb2 import WidgetState

from dashboard import share
from dashboard.bench.server import Server, running
from dashboard.bench.viewer import XSRF_COOKIE, PageView, session
from dashboard.options import parse
from engine.cache.connection import reading
from engine.cache.queries import studies

FILE = "5e0c1a2b-0000-4000-8000-000000000000"
# Signing in is set up, with a provider that nobody needs to reach.
SECRETS = """
[auth]
redirect_uri = "http://127.0.0.1/oauth2callback"
cookie_secret = "a long secret of the test, for cookies only"
client_id = "lab"
client_secret = "secret"
server_metadata_url = "http://127.0.0.1:9/.well-known/openid-configuration"
"""


@pytest.fixture
def caches(synthetic: ModuleType, tmp_path: Path) -> tuple[Path, bytes]:
    """The cache of a server, and the contents of a colleague's."""
    mine, theirs = tmp_path / "mine.duckdb", tmp_path / "theirs.duckdb"
    synthetic.write(mine, synthetic.study("mine", prompts=("owl",), seeds=(0,)))
    synthetic.write(theirs, synthetic.study("theirs", prompts=("rocket",), seeds=(0,)))
    return mine, theirs.read_bytes()


def names(cache: Path) -> set[str]:
    with reading(cache, 30) as db:
        return set(studies(db)["name"])


def upload(server: Server, view: PageView, data: bytes) -> int:
    """Sends a file to a session as a browser does; returns the status of the answer, 0 if there is none."""
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    browser.open(f"{server.url}/_stcore/health").read()
    token = next((cookie.value or "").strip('"') for cookie in jar if cookie.name == XSRF_COOKIE)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="theirs.duckdb"\r\n\r\n'
    request = urllib.request.Request(
        f"{server.url}/_stcore/upload_file/{view.session}/{FILE}",
        head + data + b"\r\n--x--\r\n",
        method="PUT",
        headers={"Content-Type": "multipart/form-data; boundary=x", "X-Xsrftoken": token},
    )
    try:
        with browser.open(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except urllib.error.URLError:
        return 0  # the server has hung up while the file was still on its way


def dropped(uploader: str, size: int) -> WidgetState:
    info = UploadedFileInfo(file_id=FILE, name="theirs.duckdb", size=size)
    return WidgetState(id=uploader, file_uploader_state_value=FileUploaderState(uploaded_file_info=[info]))


def form_of(view: PageView) -> tuple[str, str]:
    """Ids of the form's button and of its place to drop a file."""
    (uploader,) = view.uploaders
    return next(key for label, key in view.buttons if label == "Import"), uploader


def test_a_sent_cache_is_taken_over_for_who_may_and_the_same_messages_do_nothing_for_a_reader(
    caches: tuple[Path, bytes], tmp_path: Path
) -> None:
    """Both send the file by HTTP and press the form's button over the websocket; only the right differs."""
    cache, data = caches
    before = cache.read_bytes()
    secrets = tmp_path / "secrets.toml"
    secrets.write_text(SECRETS)
    with running(cache, "--allow-runs") as server, session(server.url) as viewer:
        seen = viewer.view("runs")
        button, uploader = form_of(seen)
    for arguments, options in (
        ((), ()),
        (("--read-only", "--allow-runs"), ()),
        ((), ("--secrets.files", str(secrets))),
    ):
        with running(cache, *arguments, options=options) as server, session(server.url) as viewer:
            seen = viewer.view("runs")
            assert seen.uploaders == []
            upload(server, seen, data)
            after = viewer.view("runs", pressed=button, states=[dropped(uploader, len(data))])
            assert after.errors == []
            assert not any("aken over" in text for text in after.texts)
        assert cache.read_bytes() == before

    with running(cache, "--allow-runs") as server, session(server.url) as viewer:
        assert upload(server, viewer.view("runs"), data) == 204
        after = viewer.view("runs", pressed=button, states=[dropped(uploader, len(data))])
        assert any("Imported" in text for text in after.texts)
    assert names(cache) == {"mine", "theirs"}


@pytest.mark.parametrize("arguments", [(), ("--read-only", "--allow-runs")])
def test_a_server_on_which_nobody_may_run_keeps_no_file(caches: tuple[Path, bytes], arguments: tuple[str, ...]) -> None:
    with running(caches[0], *arguments) as server, session(server.url) as viewer:
        for page in ("overview", "runs"):
            assert upload(server, viewer.view(page), b"a few bytes") == 413


def test_taking_over_asks_for_the_right_where_it_is_done(
    caches: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, data = caches
    before = cache.read_bytes()
    said: list[str] = []
    monkeypatch.setattr(share.st, "html", said.append)
    share._import(parse(["--cache", str(cache)]), "theirs.duckdb", memoryview(data))
    assert "Nothing was imported" in said[0]
    assert "This dashboard is for reading" in said[0]
    assert cache.read_bytes() == before
