"""ReadWriteLock at a cache file: threads that vote and read, and other processes that write, never hurt each other."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cache.connection import holding, migrate, reading, writing
from engine.cache.read_write_lock import ReadWriteLock, lock_of
from engine.cache.snapshot import snapshot
from engine.cache.vote_table import Vote, cast
from engine.errors import CacheBusy
from tests.engine.helpers import ask

SECONDS = 5.0
# Says "done" once the file could be opened for writing, "locked" if it could not.
INTRUDER = """
import sys
from pathlib import Path
from engine.cache.connection import writing
from engine.errors import CacheBusy
try:
    with writing(Path(sys.argv[1]), patience=0.2):
        print("done")
except CacheBusy:
    print("locked")
"""
WRITER = """
import sys, time
from pathlib import Path
from engine.cache.connection import writing
end, number = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    with writing(Path(sys.argv[1])) as db:
        rows = "SELECT ?, i, 0.5 FROM range(200) t(i)"
        db.execute(f"INSERT INTO steps (trajectory_id, step_index, progress) {rows}", [f"t{number}"])
    number += 1
    print(number, flush=True)
    time.sleep(0.005)
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    migrate(tmp_path / "c.duckdb")
    return tmp_path / "c.duckdb"


def another_process(cache: Path) -> str:
    done = subprocess.run([sys.executable, "-c", INTRUDER, str(cache)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def in_a_thread(act: Callable[[], None]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def a_read_in_vain(cache: Path) -> None:
    with pytest.raises(CacheBusy, match="in use by another process or thread"), reading(cache, patience=0.05):
        pass


@pytest.mark.parametrize("name", ["c.duckdb", "link.duckdb", "../{folder}/c.duckdb"])
def test_a_thread_that_reads_in_vain_lets_no_other_process_write(cache: Path, name: str) -> None:
    (cache.parent / "link.duckdb").symlink_to(cache)
    other_name = cache.parent / name.format(folder=cache.parent.name)
    with writing(cache) as db:
        db.execute("INSERT INTO steps (trajectory_id, step_index, progress) VALUES ('a', 0, 0.5)")
        in_a_thread(lambda: a_read_in_vain(other_name))
        assert another_process(cache) == "locked"
    assert another_process(cache) == "done"


def test_copying_waits_for_threads_that_read(cache: Path, tmp_path: Path) -> None:
    def copy_in_vain() -> None:
        with pytest.raises(CacheBusy), holding(cache, patience=0.05):
            pass

    with reading(cache) as db:
        in_a_thread(copy_in_vain)
        assert another_process(cache) == "locked"
        assert db.execute("SELECT count(*) FROM votes").fetchall() == [(0,)]
    with snapshot(cache, tmp_path / "copy.duckdb") as db:
        assert db.execute("SELECT count(*) FROM votes").fetchall() == [(0,)]


def test_threads_read_at_the_same_time(cache: Path) -> None:
    together = threading.Barrier(3, timeout=20)

    def read() -> None:
        with reading(cache):
            together.wait()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    together.wait()
    for thread in threads:
        thread.join(20)


def test_a_thread_that_reads_may_read_once_more_though_a_writer_waits() -> None:
    lock, outcome = ReadWriteLock(), []

    def write() -> None:
        with lock.hold(time.monotonic() + 20, exclusive=True) as mine:
            outcome.append(mine)

    with lock.hold(time.monotonic(), exclusive=False) as first:
        writer = threading.Thread(target=write)
        writer.start()
        while not lock._queue:
            time.sleep(0.001)
        with lock.hold(time.monotonic() + 0.05, exclusive=False) as second:
            assert (first, second) == (True, True)
        assert outcome == []
    writer.join(20)
    assert outcome == [True]


def test_a_writer_that_waits_is_not_overtaken_by_readers_who_came_later() -> None:
    lock, order = ReadWriteLock(), []

    def take(name: str, *, exclusive: bool) -> None:
        with lock.hold(time.monotonic() + 20, exclusive=exclusive) as mine:
            assert mine
            order.append(name)

    with lock.hold(time.monotonic(), exclusive=False):
        threads = []
        for name in ("writer", "reader", "other writer"):
            threads.append(threading.Thread(target=take, args=(name,), kwargs={"exclusive": "writer" in name}))
            threads[-1].start()
            while len(lock._queue) < len(threads):
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(20)
    assert order == ["writer", "reader", "other writer"]


def test_who_gives_up_leaves_the_queue() -> None:
    lock = ReadWriteLock()
    with lock.hold(time.monotonic(), exclusive=True):
        for exclusive in (True, False):
            with lock.hold(time.monotonic() + 0.02, exclusive=exclusive) as mine:
                assert not mine
    with lock.hold(time.monotonic(), exclusive=True) as mine:
        assert mine


def test_turns_of_a_file_nobody_uses_are_forgotten(cache: Path) -> None:
    lock = lock_of(cache)
    assert lock_of(cache.parent / ".." / cache.parent.name / cache.name) is lock
    assert lock_of(cache.with_name("other.duckdb")) is not lock


def test_threads_that_vote_and_read_and_a_process_that_writes_lose_nothing(cache: Path) -> None:
    """Without lock this file breaks within seconds: unreadable, or with groups and votes missing."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(cache), str(SECONDS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end, voted, troubles = time.monotonic() + SECONDS, [], []

    def vote(voter: str) -> None:
        number = 0
        while time.monotonic() < end:
            ballot = Vote("s", voter, "none", f"a{number}", f"b{number}", "x", "y", "p", 0, "left", 1.0)
            cast(cache, ballot)
            voted.append(ballot.vote_id)
            number += 1
            time.sleep(0.02)

    def read() -> None:
        while time.monotonic() < end:
            try:
                with reading(cache, 1.5) as db:
                    db.execute("SELECT count(*) FROM votes").fetchall()
            except CacheBusy:
                pass  # pages show what they knew before
            time.sleep(0.02)

    def noted(act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            troubles.append(error)

    acts = [*[lambda voter=f"v{number}": vote(voter) for number in range(4)], read, read, read]
    threads = [threading.Thread(target=noted, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    said, complaints = writer.communicate(timeout=60)
    assert (troubles, complaints, writer.returncode) == ([], "", 0)
    groups = int(said.split()[-1])
    assert groups > 2
    assert len(voted) > 8
    assert sorted(ask(cache, "SELECT vote_id FROM votes")) == sorted((key,) for key in voted)
    assert ask(cache, "SELECT count(DISTINCT trajectory_id), count(*) FROM steps") == [(groups, 200 * groups)]
