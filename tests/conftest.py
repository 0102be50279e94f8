"""What holds for every test: no network, few threads, and GPU tests only where there is a GPU."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

# Set before any test imports the libraries that read them; child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models of the tests are tiny, and threads that wait for each other on a busy machine make them many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them ignore interrupts, and engines would inherit that.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LOCAL_HOSTS = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuses every TCP connection of this process that leaves the machine."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: object) -> None:
        leaves = self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM
        if leaves and isinstance(address, tuple) and address[0] not in LOCAL_HOSTS:
            raise OSError(f"A test tried to reach {address[0]}:{address[1]}. Tests use no network.")
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture
def scheduler_table() -> Iterator[dict[str, Any]]:
    """The table of schedulers, put back after the test together with the tuned schedules."""
    from engine.study import schedulers, tuned

    tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
    tables += [(table, dict(table)) for table in (schedulers.SCHEDULERS, tuned.TUNED)]
    yield schedulers.SCHEDULERS
    for table, before in tables:
        table.clear()
        table.update(before)


@pytest.fixture(autouse=True)
def _main_module_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts `__main__` back: a page run by AppTest replaces it, and children of later tests would import the page."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device on this machine")
