"""Decisions in the cache: terms, state and evidence, batch by batch."""

from pathlib import Path

import pytest

from engine.cache.connection import migrate, reading
from engine.cache.decision_tables import EvidenceRow, evidence, stored_decision, write_evidence, write_terms


def _rows(cache: Path) -> list[tuple[object, ...]]:
    with reading(cache) as db:
        return list(evidence(db, "s").itertuples(index=False, name=None))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "c.duckdb"
    migrate(path)
    write_terms(path, "s", {"order": ["a", "b"]}, keep_evidence=False)
    return path


def test_batches_add_up_and_a_prompt_written_again_is_there_once(cache: Path) -> None:
    write_evidence(cache, "s", [EvidenceRow("x:1", "other_picture", 0, 1.0)], {"used": 1})
    again = [EvidenceRow("x:1", "other_picture", 0, 0.0), EvidenceRow("x:1", "clip_score", 2, -0.25)]
    write_evidence(cache, "s", again, {"used": 3})
    assert _rows(cache) == [("x:1", "clip_score", 2, -0.25), ("x:1", "other_picture", 0, 0.0)]
    with reading(cache) as db:
        assert stored_decision(db, "s") == ({"order": ["a", "b"]}, {"used": 3})
        assert stored_decision(db, "another") is None


def test_other_terms_begin_without_evidence_and_the_same_keep_it(cache: Path) -> None:
    write_evidence(cache, "s", [EvidenceRow("x:1", "other_picture", 0, 1.0)], {"used": 1})
    write_terms(cache, "s", {"order": ["a", "b", "c"]}, keep_evidence=True)
    assert len(_rows(cache)) == 1
    with reading(cache) as db:
        assert stored_decision(db, "s") == ({"order": ["a", "b", "c"]}, {"used": 1})
    write_terms(cache, "s", {"order": ["c"]}, keep_evidence=False)
    assert _rows(cache) == []


def test_evidence_without_terms_is_refused(cache: Path) -> None:
    with pytest.raises(ValueError, match="no decision terms"):
        write_evidence(cache, "another", [], {})
