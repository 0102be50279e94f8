"""A headless client: opens a page over the websocket like a browser, and waits until its script has finished."""

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

PATIENCE_SECONDS = 60.0
MOST_BYTES = 64 * 2**20
XSRF_COOKIE = "_streamlit_xsrf"


@dataclass
class PageView:
    """A page as rendered by the server.

    Attributes:
        seconds: Time from the request to the end of the script.
        bytes: Size of all messages.
        texts: HTML and Markdown of the page.
        errors: Exceptions shown on the page.
        buttons: (label, widget id) of its buttons.
        uploaders: Widget ids of its file uploaders.
        widgets: Widget ids of everything that has a state.
        session: The server's id of the session.
        redirect: URL to which the server redirects for signing in or out.
    """

    seconds: float = 0.0
    bytes: int = 0
    texts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    uploaders: list[str] = field(default_factory=list)
    widgets: list[str] = field(default_factory=list)
    session: str = ""
    redirect: str = ""


class Session:
    """An open session; each `view` runs the page's script once."""

    def __init__(self, connection: ClientConnection, url: str, patience: float = PATIENCE_SECONDS) -> None:
        self._connection = connection
        self._url = url
        self._patience = patience

    def view(self, page: str = "", query: str = "", pressed: str = "", states: Sequence[WidgetState] = ()) -> PageView:
        """Requests a page.

        Args:
            page: Its name in the URL; empty for the first page.
            query: Query string of the URL, without the question mark.
            pressed: Id of a button to report as pressed.
            states: States of other widgets to report.
        """
        message = self._request(page)
        message.rerun_script.query_string = query
        message.rerun_script.widget_states.widgets.extend(states)
        if pressed:
            message.rerun_script.widget_states.widgets.add(id=pressed, trigger_value=True)
        started = time.perf_counter()
        self._connection.send(message.SerializeToString())
        found = PageView()
        for answer in self._answers(found):
            if answer.WhichOneof("type") == "script_finished":
                found.seconds = time.perf_counter() - started
                return found
            _take(answer, found)
        raise AssertionError("unreachable")

    def watch(self, page: str = "") -> Iterator[ForwardMsg]:
        """Opens a page and keeps it open as a browser does: its fragments are run again as often as they ask for.

        Yields:
            Every message of the server, for as long as it is asked for the next one.
        """
        due: dict[str, tuple[float, float]] = {}  # fragment -> seconds between two runs, when the next one is due
        script = ""
        self._connection.send(self._request(page).SerializeToString())
        while True:
            patience = min((when for _, when in due.values()), default=time.monotonic() + 1.0) - time.monotonic()
            with contextlib.suppress(TimeoutError):
                data = self._connection.recv(timeout=max(0.0, patience))
                answer = ForwardMsg()
                answer.ParseFromString(data if isinstance(data, bytes) else b"")
                kind = answer.WhichOneof("type")
                if kind == "new_session" and not answer.metadata.run.fragment_ids:
                    due, script = {}, answer.new_session.page_script_hash
                elif kind == "auto_rerun":
                    every = answer.auto_rerun.interval
                    due[answer.auto_rerun.fragment_id] = every, time.monotonic() + every
                yield answer
            for fragment, (every, when) in due.items():
                if when <= time.monotonic():
                    due[fragment] = every, time.monotonic() + every
                    message = self._request(page)
                    message.rerun_script.page_script_hash = script
                    message.rerun_script.fragment_id, message.rerun_script.is_auto_rerun = fragment, True
                    self._connection.send(message.SerializeToString())

    def _request(self, page: str) -> BackMsg:
        message = BackMsg()
        message.rerun_script.page_name = page
        message.rerun_script.context_info.url = f"{self._url}/{page}"
        return message

    def _answers(self, found: PageView) -> Iterator[ForwardMsg]:
        deadline = time.monotonic() + self._patience
        while True:
            data = self._connection.recv(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(data, bytes):
                found.bytes += len(data)
                answer = ForwardMsg()
                answer.ParseFromString(data)
                yield answer


def _take(answer: ForwardMsg, found: PageView) -> None:
    if answer.WhichOneof("type") == "auth_redirect":
        found.redirect = answer.auth_redirect.url
    if answer.WhichOneof("type") == "new_session":
        found.session = answer.new_session.initialize.session_id
    if answer.WhichOneof("type") != "delta":
        return
    element = answer.delta.new_element
    kind = element.WhichOneof("type")
    if widget := getattr(getattr(element, kind or "", None), "id", ""):
        found.widgets.append(widget)
    if kind == "html":
        found.texts.append(element.html.body)
    elif kind == "markdown":
        found.texts.append(element.markdown.body)
    elif kind == "exception":
        found.errors.append(element.exception.message)
    elif kind == "button":
        found.buttons.append((element.button.label, element.button.id))
    elif kind == "file_uploader":
        found.uploaders.append(element.file_uploader.id)


@contextlib.contextmanager
def session(
    url: str,
    origin: str | None = None,
    cookies: Mapping[str, str] | None = None,
    at: str = "",
    patience: float = PATIENCE_SECONDS,
) -> Iterator[Session]:
    """Opens a new session on a server.

    Args:
        url: URL of the server, "http://host:port".
        origin: Origin header of the connecting page; the server itself by default.
        cookies: Cookies to send; the XSRF token among them is repeated as browsers do.
        at: IP address to connect to, instead of resolving the host name.
        patience: Seconds to wait for a view.

    Raises:
        TimeoutError, websockets.exceptions.WebSocketException: The server does not answer, or refuses.
    """
    sent = dict(cookies or {})
    protocols = ["streamlit", *([sent[XSRF_COOKIE]] if XSRF_COOKIE in sent else [])]
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in sent.items())} if sent else {}
    port = urlsplit(url).port or 80
    reached = socket.create_connection((at, port), timeout=PATIENCE_SECONDS) if at else None
    with connect(
        url.replace("http", "ws", 1) + "/_stcore/stream",
        subprotocols=[Subprotocol(name) for name in protocols],
        origin=Origin(origin or url),
        additional_headers=headers,
        max_size=MOST_BYTES,
        open_timeout=PATIENCE_SECONDS,
        ping_interval=None,
        sock=reached,
    ) as connection:
        yield Session(connection, url, patience)
