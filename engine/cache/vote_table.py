"""Blind votes: each is committed in its own transaction, at most once per voter and pair."""

from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import duckdb
import pandas as pd

from engine.cache.connection import writing
from engine.cache.limits import VOTE_ROWS, fetch
from engine.cache.rows import now, put

Check = Literal["none", "identical", "obvious"]
Choice = Literal["left", "right", "same"]
# Score of the picture on the left for each choice.
SCORED: dict[str, float] = {"left": 1.0, "same": 0.5, "right": 0.0}


@dataclass(frozen=True)
class Vote:
    """A choice between two pictures of the same prompt and seed.

    Attributes:
        voter: A random id; a second vote of the same voter on a pair is ignored.
        check_kind: "none", or the kind of attention check: the same picture twice, or one that is clearly worse.
        seconds: Time from showing the pair to the choice.
    """

    study_id: str
    voter: str
    check_kind: Check
    left_id: str
    right_id: str
    left_lane: str
    right_lane: str
    prompt: str
    seed: int
    choice: Choice
    seconds: float

    @property
    def vote_id(self) -> str:
        """Digest of study, voter and pair, independent of the sides."""
        pair = sorted((self.left_id, self.right_id))
        return sha256("\n".join([self.study_id, self.voter, *pair]).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def cast(path: Path, vote: Vote) -> bool:
    """Commits a vote; returns False if the voter has already voted on this pair.

    Raises:
        CacheError: The cache cannot be written; the vote is not counted.
    """
    row = {"vote_id": vote.vote_id, **asdict(vote), "created_at": now()}
    with writing(path) as db:
        return put(db, "votes", [row]) == 1


def votes(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """All votes of a study, oldest first, but for those on pictures of the cache that it no longer shows."""
    query = """
        WITH gone AS (
            SELECT trajectory_id FROM trajectories
            ANTI JOIN (SELECT trajectory_id FROM study_trajectories WHERE study_id = $study) USING (trajectory_id)
        )
        SELECT * FROM votes
        WHERE study_id = $study AND left_id NOT IN (FROM gone) AND right_id NOT IN (FROM gone)
    """
    return fetch(db, query, {"study": study_id}, VOTE_ROWS, order="created_at, vote_id")


def voted(db: duckdb.DuckDBPyConnection, study_id: str, voter: str) -> list[tuple[str, str]]:
    """The pairs (left_id, right_id) of a study on which a voter has voted."""
    rows = db.execute(
        "SELECT left_id, right_id FROM votes WHERE study_id = ? AND voter = ?", [study_id, voter]
    ).fetchall()
    return [(str(left), str(right)) for left, right in rows]
