"""Runs a dashboard server in a separate process, to measure it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from engine.errors import LabError
from engine.paths import ROOT

START_SECONDS = 90.0


class BenchError(LabError):
    """Something could not be measured."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        started_seconds: Time from starting the process until it answered.
    """

    url: str
    process: psutil.Process
    started_seconds: float

    def memory_mb(self) -> float:
        """Resident set size of the process (MB)."""
        return float(self.process.memory_info().rss / 1e6)

    def processor_seconds(self) -> float:
        """CPU time used by the process, over all threads."""
        used: Any = self.process.cpu_times()
        return float(used.user + used.system)


@contextlib.contextmanager
def running(cache: Path, *arguments: str, options: Sequence[str] = ()) -> Iterator[Server]:
    """Runs a dashboard on a cache, and stops it on exit.

    Args:
        cache: The cache.
        arguments: Arguments of the dashboard, such as "--read-only".
        options: Options of Streamlit.

    Raises:
        BenchError: It does not start.
    """
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "dashboard/app.py",
        "--server.address",
        "127.0.0.1",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
        "--server.fileWatcherType",
        "none",
        *options,
        "--",
        "--cache",
        str(cache.resolve()),
        *arguments,
    ]
    with serving(command, port) as server:
        yield server


@contextlib.contextmanager
def running_as_demo(cache: Path) -> Iterator[Server]:
    """Runs a dashboard as `make demo` does, and stops it on exit.

    Raises:
        BenchError: It does not start.
    """
    port = _free_port()
    command = [sys.executable, "-m", "engine", "dashboard", "--port", str(port), "--allow-runs", "--cache", str(cache)]
    with serving(command, port) as server:
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(command: Sequence[str], port: int) -> Iterator[Server]:
    """Runs a command that serves the pages at a port, and stops it on exit.

    Raises:
        BenchError: It does not start.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "STREAMLIT_SERVER_HEADLESS": "true"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process, started)
        yield Server(url, psutil.Process(process.pid), time.perf_counter() - started)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", started: float) -> None:
    while time.perf_counter() - started < START_SECONDS:
        if process.poll() is not None:
            raise BenchError(f"The dashboard exited with code {process.returncode} while starting.")
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
                if answer.read() == b"ok":
                    return
        except OSError:
            time.sleep(0.02)
    raise BenchError(f"The dashboard did not start within {START_SECONDS:.0f} s.")
