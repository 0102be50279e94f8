"""Runs whose prompt is swapped midway: writing and reading."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pandas as pd

from engine.cache.connection import writing
from engine.cache.limits import fetch
from engine.cache.rows import now, put


@dataclass(frozen=True)
class SwapRow:
    """A run that starts with one prompt and ends with another; see the table `commitment`."""

    swap_id: str
    environment_id: str
    model_id: str
    lane: str
    first_id: str
    second_id: str
    first_prompt: str
    second_prompt: str
    seed: int
    guidance_scale: float
    share: float
    calls: int | None = None
    swap_call: int | None = None
    progress: float | None = None
    log_snr: float | None = None
    first_distance: float | None = None
    second_distance: float | None = None
    first_probability: float | None = None
    judge: str | None = None
    image: bytes | None = None
    error: str | None = None


def write_swaps(path: Path, rows: Sequence[SwapRow]) -> None:
    """Writes runs with a swapped prompt, replacing earlier ones of the same id.

    Raises:
        CacheError: The file cannot be used.
    """
    time = now()
    with writing(path) as db:
        put(db, "commitment", [{**asdict(row), "created_at": time} for row in rows])


def swapped(db: duckdb.DuckDBPyConnection, ids: Collection[str]) -> set[str]:
    """The prompt swaps that are done."""
    rows = db.execute(
        "SELECT swap_id FROM commitment WHERE error IS NULL AND list_contains(?, swap_id)", [list(ids)]
    ).fetchall()
    return {row[0] for row in rows}


def commitment(db: duckdb.DuckDBPyConnection, study_id: str, *, images: bool = False) -> pd.DataFrame:
    """The prompt swaps of a study with device_name, and with pictures if `images` is set."""
    without = "" if images else "EXCLUDE (image)"
    return fetch(
        db,
        f"""
        SELECT c.* {without}, e.device_name FROM study_swaps s JOIN commitment c USING (swap_id)
        LEFT JOIN environments e USING (environment_id) WHERE s.study_id = ? ORDER BY s.position
        """,
        [study_id],
    )
