"""Tables and charts of phases from plain values: few of them, and texts that are attacks."""

from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from engine.analysis.borders import BORDERS, MeasuredBorder
from engine.analysis.commitment import Commitment
from engine.analysis.outcomes import StudyLane
from engine.analysis.statistics import Estimate
from engine.display import html
from engine.display.phase_charts import commitment_chart, curve_chart, octave_chart, octave_name, path_chart, span_chart
from engine.display.phase_tables import border_table, commitment_table, swap_table, within_claimed


def estimate(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value, value - half, value + half, 6, 12)


@pytest.mark.parametrize(
    ("start", "end", "word"),
    [
        (estimate(0.45), estimate(0.7), True),
        (estimate(0.2), estimate(0.7), False),
        (estimate(0.45), estimate(0.9), False),
        (estimate(0.40), estimate(0.7), None),
        (Estimate(0.45, float("nan"), float("nan"), 1, 1), estimate(0.7), None),
    ],
)
def test_a_phase_lies_within_the_claimed_span_if_its_intervals_do(
    start: Estimate, end: Estimate, word: bool | None
) -> None:
    assert within_claimed(start, end) is word


def test_labels_cannot_be_markup(synthetic: ModuleType) -> None:
    lane = StudyLane("ddim:50", synthetic.HOSTILE, "ddim", 50, 50)
    measured = {("ddim:50", b.key): MeasuredBorder(b, "ddim:50", {"progress": estimate(0.5)}, 12, 3) for b in BORDERS}
    point = {
        "lane": "ddim:50",
        "progress": 0.4,
        "progress_low": 0.3,
        "progress_high": 0.5,
        "runs": 3,
        "log_snr": -1.0,
        "log_snr_low": -2.0,
        "log_snr_high": 0.0,
        "pairs": 3,
        "never": 1,
    }
    points = pd.DataFrame([point])
    tables = (
        border_table([lane], measured, "ddim:50"),
        commitment_table([lane], Commitment(points, points, "CLIP", 0)),
        swap_table([lane], [0.5], {("ddim:50", 0.5): "data:x"}, (synthetic.HOSTILE, "b")),
    )
    shown = "".join(map(html.table, tables))
    assert "<script" not in shown
    assert "onerror='" not in shown
    assert "3 of 15 never" in shown


def test_charts_are_drawn_from_little_as_well() -> None:
    """One place, one lane, no ruler, no interval."""
    one = pd.DataFrame(
        [
            {
                "label": "A",
                "scheduler": "ddim",
                "log_snr": 0.5,
                "median": 1.0,
                "low": 1.0,
                "high": 1.0,
                "runs": 1,
                "prompts": 1,
                "metric": "octave_0",
            }
        ]
    )
    none = pd.DataFrame(columns=["label", "scheduler", "log_snr", "progress"])
    assert curve_chart(one, none, "t").to_dict()
    assert octave_chart(one, none, "t").to_dict()
    span = {name: 0.5 for part in ("start_50", "end_50") for name in (part, f"{part}_low", f"{part}_high")}
    spans = pd.DataFrame([{"label": "A", "scheduler": "ddim", **span, "start_80": 0.4, "end_80": 0.6, "half": 0.5}])
    assert span_chart(spans, "t", "progress", (0.4, 0.8)).to_dict()
    points = pd.DataFrame(
        [
            {
                "label": "A",
                "scheduler": "ddim",
                "step_index": 0,
                "progress": 1.0,
                "log_snr": 0.0,
                "pca_1": 0.0,
                "pca_2": 0.0,
                "pca_3": 0.0,
            }
        ]
    )
    assert path_chart(points, (1, 2), (1.0, 0.0, 0.0)).to_dict()
    curve = pd.DataFrame(
        [
            {
                "label": "A",
                "scheduler": "ddim",
                "progress": 0.5,
                "log_snr": 0.0,
                "value": 1.0,
                "low": np.nan,
                "high": np.nan,
                "pairs": 1,
                "runs": 1,
            }
        ]
    )
    assert commitment_chart(curve, "t").to_dict()


def test_octaves_have_names() -> None:
    assert [octave_name(lower, 4) for lower in (0, 1, 2, 4)] == ["below 1", "1 – 2", "2 – 4", "4 and more"]
