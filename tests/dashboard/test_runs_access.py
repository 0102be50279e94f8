"""Signing in with a local OpenID Connect provider, and what a running server answers to those who have no right."""

import http.cookiejar
import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import psutil
import pytest
from websockets.exceptions import WebSocketException

from dashboard.bench.server import Server, running
from dashboard.bench.viewer import PageView, session
from dashboard.jobs.queue import Queue

pytest.importorskip("authlib", reason="signing in needs Authlib")

SECRETS = """
[auth]
redirect_uri = "http://127.0.0.1:{{port}}/oauth2callback"
cookie_secret = "a long secret of the test, for cookies only"
client_id = "{client_id}"
client_secret = "{client_secret}"
server_metadata_url = "{url}/.well-known/openid-configuration"
"""
Serve = Callable[..., Server]
TOML = 'name = "mine"\nmodel = "gaussian"\nprompts = ["disc"]\nlanes = ["ddim:4"]\n'


@pytest.fixture(scope="module")
def oidc() -> ModuleType:
    """The module with the provider."""
    spec = importlib.util.spec_from_file_location("oidc", Path(__file__).with_name("oidc.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["oidc"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def signing_in(oidc: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, object, Path]]:
    """A server with a provider, and where it keeps its runs; who is listed may run."""
    folder = tmp_path_factory.mktemp("signing-in")
    with oidc.provider() as provider:
        secrets = SECRETS.format(client_id=oidc.CLIENT_ID, client_secret=oidc.CLIENT_SECRET, url=provider.url)
        (folder / "secrets.toml").write_text(secrets + '[runs]\nallowed = ["*@example.org"]\n')
        with running(folder / "cache.duckdb", options=("--secrets.files", str(folder / "secrets.toml"))) as server:
            yield server, provider, folder / "cache.duckdb"


def sign_in(server: Server) -> dict[str, str]:
    """Follows the way of a browser from the button on the page to the provider and back; returns its cookies."""
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    browser.open(f"{server.url}/_stcore/health").read()
    with session(server.url) as viewer:
        button = press(viewer.view("runs"), "Sign in")
        redirect = viewer.view("runs", pressed=button).redirect
    assert redirect.startswith("/auth/login")
    browser.open(server.url + redirect).read()
    return {cookie.name: (cookie.value or "").strip('"') for cookie in jar}


def press(view: PageView, label: str) -> str:
    return next(key for name, key in view.buttons if name.startswith(label))


def labels(view: PageView) -> set[str]:
    return {name for name, _ in view.buttons}


def test_who_signs_in_and_is_listed_may_run_and_nobody_else(signing_in: tuple[Server, object, Path]) -> None:
    server, provider, _ = signing_in
    with session(server.url) as viewer:
        outside = viewer.view("runs")
    assert labels(outside) == {"Sign in"}
    assert any("Sign in to start studies" in text for text in outside.texts)

    provider.user = {"sub": "1", "email": "ann@example.org", "email_verified": True}  # type: ignore[attr-defined]
    with session(server.url, cookies=sign_in(server)) as viewer:
        assert {"Check and plan", "Sign out ann@example.org"} <= labels(viewer.view("runs"))

    provider.user = {"sub": "2", "email": "bob@elsewhere.org", "email_verified": True}  # type: ignore[attr-defined]
    with session(server.url, cookies=sign_in(server)) as viewer:
        seen = viewer.view("runs")
    assert labels(seen) == {"Sign out bob@elsewhere.org"}
    assert any("may read" in text for text in seen.texts)


def test_a_forged_cookie_signs_nobody_in(signing_in: tuple[Server, object, Path]) -> None:
    server, provider, _ = signing_in
    provider.user = {"sub": "1", "email": "ann@example.org", "email_verified": True}  # type: ignore[attr-defined]
    cookies = sign_in(server)
    user = cookies["_streamlit_user"]
    forged = {**cookies, "_streamlit_user": user[:-4] + ("AAAA" if user[-4:] != "AAAA" else "BBBB")}
    without_token = {name: value for name, value in cookies.items() if name != "_streamlit_xsrf"}
    for sent in (forged, without_token):
        with session(server.url, cookies=sent) as viewer:
            assert "Check and plan" not in labels(viewer.view("runs"))


def test_read_only_overrules_signing_in(oidc: ModuleType, tmp_path: Path) -> None:
    with oidc.provider() as provider:
        secrets = SECRETS.format(client_id=oidc.CLIENT_ID, client_secret=oidc.CLIENT_SECRET, url=provider.url)
        (tmp_path / "secrets.toml").write_text(secrets)
        options = ("--secrets.files", str(tmp_path / "secrets.toml"))
        with (
            running(tmp_path / "cache.duckdb", "--read-only", options=options) as server,
            session(server.url) as viewer,
        ):
            assert labels(viewer.view("runs")) == set()


def test_the_messages_of_somebody_with_the_right_do_nothing_for_a_reader(tmp_path: Path) -> None:
    """The ids of all buttons are known; a reader sends them anyway, and starts and cancels nothing."""
    cache = tmp_path / "cache.duckdb"
    Queue(cache).submit("waiting", TOML, "", "")
    (Queue(cache).folder / "000001" / "running.json").write_text('{"started_at": "2026-11-01T00:00:00"}')
    with running(cache, "--allow-runs", "--read-only") as server, session(server.url) as viewer:
        assert labels(viewer.view("runs")) == set()
    with running(cache) as server:
        ids = [f"$$ID-{'0' * 32}-{key}" for key in ("check", "start", "cancel_000001", "sign_in")]
        for key in [*ids, *_ids_of_somebody_with_the_right(tmp_path)]:
            with session(server.url) as viewer:
                viewer.view("runs")
                seen = viewer.view("runs", query="run_from=A+preset&check=1&start=1", pressed=key)
                assert seen.errors == []
                assert labels(seen) == set()
    (job,) = Queue(cache).jobs()
    assert job.study == "waiting"
    assert not job.cancelling
    assert not (Queue(cache).folder / "runner.log").exists()


def _ids_of_somebody_with_the_right(folder: Path) -> list[str]:
    with running(folder / "other.duckdb", "--allow-runs") as server, session(server.url) as viewer:
        found = viewer.view("runs")
        assert "Check and plan" in labels(found)
        return [key for _, key in found.buttons]


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1.evil.example:8501", "null"])
def test_a_page_of_another_site_cannot_talk_to_the_server(signing_in: tuple[Server, object, Path], origin: str) -> None:
    with pytest.raises(WebSocketException), session(signing_in[0].url, origin=origin) as viewer:
        viewer.view("runs")


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[::2]"])
def test_a_name_of_another_site_that_leads_to_this_machine_reaches_no_page(
    signing_in: tuple[Server, object, Path], name: str
) -> None:
    """DNS rebinding: whoever owns a name lets it lead here, and a page of that name then has the server's origin."""
    url = f"http://{name}:{urlsplit(signing_in[0].url).port}"
    with pytest.raises(WebSocketException), session(url, at="127.0.0.1") as viewer:
        viewer.view("runs")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
def test_the_names_of_this_machine_reach_the_pages_at_any_port(
    signing_in: tuple[Server, object, Path], name: str
) -> None:
    url = f"http://{name}:{urlsplit(signing_in[0].url).port}"
    with session(url, at="127.0.0.1") as viewer:
        assert labels(viewer.view("runs")) == {"Sign in"}


def test_a_shared_server_answers_to_the_names_it_is_given(tmp_path: Path) -> None:
    options = ("--server.address", "0.0.0.0", "--server.allowedHosts", "lab.example.org")
    with running(tmp_path / "cache.duckdb", options=options) as server:
        port = urlsplit(server.url).port
        with session(f"http://lab.example.org:{port}", at="127.0.0.1") as viewer:
            assert viewer.view("runs").errors == []
        with pytest.raises(WebSocketException), session(f"http://evil.example:{port}", at="127.0.0.1") as viewer:
            viewer.view("runs")


@pytest.mark.parametrize("address", ["runs/start", "_stcore/agent/interact", "_stcore/agent/mcp", "api/runs", "runs"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_no_address_takes_a_run(signing_in: tuple[Server, object, Path], address: str, method: str) -> None:
    server, _, cache = signing_in
    request = urllib.request.Request(f"{server.url}/{address}", data=TOML.encode(), method=method)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    assert raised.value.code in {400, 403, 404, 405}
    raised.value.close()
    assert Queue(cache).jobs() == []


def test_the_server_listens_on_this_machine_only_from_whatever_folder_it_is_started(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    app = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(app), "--server.port", port, "--server.headless", "true"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--", "--cache", "none.duckdb"], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := _addresses(process.pid)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert found <= {"127.0.0.1", "::1"}
        assert "usage statistics" not in (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()


def _addresses(pid: int) -> set[str]:
    """The addresses at which a process listens."""
    return {str(c.laddr.ip) for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
