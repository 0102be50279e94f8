"""What lanes take of energy, from the joules counted during timed calls. Pure: numpy and pandas."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis.timing_summary import mean_interval

# Times that were taken before energy was counted.
NOT_COUNTED = "not measured where these times were taken"
JOULES_PER_WATT_HOUR = 3600


@dataclass(frozen=True)
class EnergyUse:
    """Energy of lanes in one environment.

    Attributes:
        watt_hours: Columns lane, label, n, wh_1k (for 1,000 images: the mean of the samples), wh_1k_low and wh_1k_high
            (its 95 % bootstrap interval; NaN below 5 samples); in the order of the times. Empty if nothing was counted.
        source: What counted it, or why nothing did.
    """

    watt_hours: pd.DataFrame
    source: str


def energy_per_image(samples: pd.DataFrame, times: pd.DataFrame) -> EnergyUse:
    """The energy of those lanes, at that batch size and in that environment, of which there are times.

    Args:
        samples: Raw timing samples (`queries.timings`).
        times: Timing summaries of one environment and batch size.
    """
    columns = ["lane", "label", "n", "wh_1k", "wh_1k_low", "wh_1k_high"]
    rows, sources = [], list[str]()
    for row in times.itertuples():
        mine = samples[
            (samples["lane"] == row.lane)
            & (samples["environment_id"] == row.environment_id)
            & (samples["batch_size"] == row.batch_size)
            & (samples["stage"] == "total")
        ]
        sources += mine["energy"].dropna().tolist()
        counted = mine["joules"].dropna().to_numpy(dtype=np.float64)
        if len(counted):
            each = counted / row.batch_size * 1000 / JOULES_PER_WATT_HOUR
            rows.append((row.lane, row.label, len(each), each.mean(), *mean_interval(each)))
    found = pd.DataFrame(rows, columns=columns)
    return EnergyUse(found, sources[-1] if sources else NOT_COUNTED)


def usd_per_1000_by_energy(watt_hours: float, usd_per_kwh: float) -> float:
    """Dollars for electricity."""
    return watt_hours / 1000 * usd_per_kwh
