"""Who may do more than read. Reading is the default; every function that writes or starts anything asks here itself.

A hidden button protects nothing: whoever can open the page can send its server any message. So the right is looked up
where the deed is done, from the command line of the server and the signed cookie of the session, never from the page.
"""

import fnmatch
import hmac
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit import config

from dashboard.options import Options
from engine.errors import LabError

NO_RUNS_LINE = "Open this address once to allow runs for that browser: {url}"
UPLOAD_MEGABYTES = int(config.get_option("server.maxUploadSize") or 200)
READ_ONLY = "This dashboard was started with `--read-only`: it shows results and changes nothing."
NOT_ALLOWED = "This dashboard is for reading. Whoever starts it with `--allow-runs` can start studies from this page."
SIGN_IN = "This dashboard is for reading. Sign in to start studies."
NOT_LISTED = "{user} may read. Who may start studies is listed under `[runs]` in `secrets.toml`."


class AccessDenied(LabError):
    """Whoever asked has no right to it."""


@dataclass(frozen=True)
class Access:
    """What a session may do.

    Attributes:
        may_run: Start and cancel studies.
        who: Whom a run is put down to; empty if nobody is signed in.
        reason: Why it may not.
        can_sign_in: Signing in is set up, and nobody is signed in.
    """

    may_run: bool
    who: str
    reason: str = ""
    can_sign_in: bool = False


def of_session(options: Options) -> Access:
    """What the session that asks may do."""
    user: dict[str, Any] = dict(st.user)
    found = decide(options, user, _runners(), sign_in=_sign_in_is_set_up())
    return Access(True, "") if not found.may_run and can_be_granted(options) and _is_granted() else found


def require_run(options: Options) -> Access:
    """What the session may do, which includes running.

    Raises:
        AccessDenied: It may not.
    """
    access = of_session(options)
    if not access.may_run:
        raise AccessDenied(access.reason)
    return access


def decide(options: Options, user: Mapping[str, Any], runners: list[str] | None, *, sign_in: bool) -> Access:
    """The rule: `--read-only` forbids all; `--allow-runs`, or being signed in and listed, allows.

    Args:
        options: The command line of the server.
        user: `st.user`.
        runners: Patterns of e-mail addresses that may run; None: everyone the provider signs in.
        sign_in: Signing in is set up.
    """
    signed_in = sign_in and user.get("is_logged_in") is True
    name = str(user.get("email") or user.get("name") or user.get("sub") or "somebody signed in") if signed_in else ""
    outside = sign_in and not signed_in
    if options.read_only:
        return Access(False, name, READ_ONLY)
    if options.allow_runs:
        return Access(True, name)
    if not signed_in:
        return Access(False, "", SIGN_IN if outside else NOT_ALLOWED, can_sign_in=outside)
    if runners is None or _is_listed(user, runners):
        return Access(True, name)
    return Access(False, name, NOT_LISTED.format(user=name))


def can_be_granted(options: Options) -> bool:
    """Whether who reads the server's terminal can allow runs for a browser; never with `--read-only` or `[auth]`."""
    return not (options.read_only or options.allow_runs or _sign_in_is_set_up())


def offer(options: Options) -> None:
    """Prints a link that works once in the server's terminal, and takes it from the address of the page.

    Only who starts the server sees its terminal. Whoever can merely reach the page learns nothing that grants a right.
    """
    if not can_be_granted(options):
        return
    link = _link()
    if link.take(st.query_params.get(ALLOW)):
        st.session_state["runs_granted"] = link.secret
    if ALLOW in st.query_params:
        del st.query_params[ALLOW]
    if st.session_state.get("runs_granted") == link.secret:
        _keep_grant(key="grant", data={"name": COOKIE, "value": link.secret})


ALLOW, COOKIE = "allow", "lab_runs"

# For later sessions of the same browser: a page that is loaded anew begins another one.
_keep_grant = st.components.v2.component(
    "lab_grant",
    js="""
export default function ({ data }) {
  document.cookie = `${data.name}=${data.value}; path=/; SameSite=Strict`;
}
""",
)


class OneTimeLink:
    """A link that allows runs for the browser that opens it first, as long as the server lives.

    Attributes:
        secret: What the browser keeps that opened it.
    """

    def __init__(self) -> None:
        self.secret = secrets.token_urlsafe(32)
        self._token: str | None = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        options = ("server.address", "server.port", "server.baseUrlPath")
        host, port, path = (str(config.get_option(name) or "") for name in options)
        path = f"/{path.strip('/')}" if path.strip("/") else ""
        address = f"http://{host or 'localhost'}:{port}{path}/?{ALLOW}={self._token}"
        print(NO_RUNS_LINE.format(url=address), flush=True)

    @property
    def is_taken(self) -> bool:
        """Whether somebody has opened it."""
        return self._token is None

    def take(self, token: str | None) -> bool:
        """Whether a token is the right one; from then on it is nobody's."""
        with self._lock:
            if token is None or self._token is None or not hmac.compare_digest(token.encode(), self._token.encode()):
                return False
            self._token = None
            config.set_option("server.maxUploadSize", UPLOAD_MEGABYTES)
            return True


@st.cache_resource(show_spinner=False)
def _link() -> OneTimeLink:
    return OneTimeLink()


def _is_granted() -> bool:
    secret = _link().secret
    held = (st.session_state.get("runs_granted"), st.context.cookies.get(COOKIE))
    return any(isinstance(value, str) and hmac.compare_digest(value.encode(), secret.encode()) for value in held)


def keep_no_files(options: Options) -> None:
    """Where nobody can come to have the right, the server refuses every file that is sent to it.

    Streamlit takes files of any session, whether or not its page has a place to drop them, and holds them in memory;
    only their size can be limited, and only for the whole server.
    """
    granted = can_be_granted(options) and _link().is_taken
    if options.read_only or not (options.allow_runs or _sign_in_is_set_up() or granted):
        config.set_option("server.maxUploadSize", 0)


def _is_listed(user: Mapping[str, Any], patterns: list[str]) -> bool:
    """Whether the provider vouches for an address that is listed; an unverified address could be anybody's."""
    email = user.get("email")
    if not isinstance(email, str) or user.get("email_verified") is not True:
        return False
    return any(fnmatch.fnmatchcase(email.lower(), pattern.lower()) for pattern in patterns)


def _sign_in_is_set_up() -> bool:
    return st.secrets.load_if_toml_exists() and "auth" in st.secrets


def _runners() -> list[str] | None:
    """`[runs] allowed` of the secrets; None if it is not there. Anything but a list of texts allows nobody."""
    if not st.secrets.load_if_toml_exists() or "runs" not in st.secrets:
        return None
    table = st.secrets["runs"]
    allowed = table.get("allowed") if isinstance(table, Mapping) else None
    return [str(pattern) for pattern in allowed] if isinstance(allowed, list | tuple) else []
