"""The table [decide] of a study."""

from typing import Any

import pytest

from engine.errors import StudyError
from engine.study.decision_settings import BOUNDS, COUNTS, DecisionSettings, read_decision
from engine.study.reading import Table

LANES = ("ddim:50", "unipc:10", "euler_a:30")


def _read(**data: Any) -> DecisionSettings:
    return read_decision(Table(data, "study [decide]"), LANES, "ddim:50")


def test_an_empty_table_gives_the_defaults() -> None:
    assert _read() == DecisionSettings()


def test_all_of_it_can_be_set() -> None:
    found = _read(
        goal="as-good", other_share=0.1, seeds=2, guards=["clip_score"], pool="mine.txt", shown_only=["euler_a:30"]
    )
    assert (found.goal, found.other_share, found.seeds) == ("as-good", 0.1, 2)
    assert (found.guards, found.pool, found.shown_only) == (("clip_score",), "mine.txt", ("euler_a:30",))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"gaol": "auto"}, "unknown key 'gaol'. Did you mean 'goal'"),
        ({"goal": "equal"}, "must be one of auto, same-picture, as-good"),
        ({"shown_only": ["ddim:7"]}, "names 'ddim:7', which is not one of the lanes"),
        ({"shown_only": ["ddim:50"]}, "names the baseline"),
        ({"seeds": 1.5}, "must be from 1 to 100 and whole"),
        ({"alpha": "small"}, "must be a number"),
        *(({key: ends[1] * 2}, f"'{key}' must be from") for key, ends in BOUNDS.items()),
        *(({key: ends[0] - 1}, f"'{key}' must be from") for key, ends in COUNTS.items()),
    ],
)
def test_a_wrong_value_is_refused_with_place_and_remedy(data: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError) as caught:
        _read(**data)
    assert words in str(caught.value)
    assert "study [decide]" in str(caught.value)
