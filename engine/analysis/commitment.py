"""At which point of a run the picture is decided, from runs whose prompt was swapped. Pure, no torch.

A run follows its first prompt if CLIP rates that one likelier than the second in the final picture; without CLIP, if
its final latents are closer to those of the first prompt alone than to those of the second. The unit of resampling is
the pair of prompts; seeds are nested.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from engine.analysis import statistics as st
from engine.analysis.phases import ENDS


@dataclass(frozen=True)
class Commitment:
    """Results of prompt swaps for the lanes of a study.

    Attributes:
        curve: Columns lane, share, progress, log_snr (NaN at the end), value (share of runs that follow the first
            prompt), low, high, pairs, runs.
        points: Columns lane, progress, progress_low, progress_high, log_snr, log_snr_low, log_snr_high, pairs, runs,
            never: from where a run follows its first prompt to the end.
        by: "CLIP" or "distance in latent space".
        failed: Runs that failed.
        places: Where it was computed.
        made: When the latest run was made.
    """

    curve: pd.DataFrame
    points: pd.DataFrame
    by: str
    failed: int
    places: tuple[str, ...] = ()
    made: datetime | None = None


def commitment(rows: pd.DataFrame) -> Commitment | None:
    """The curve of each lane and its point of commitment; None without a finished run.

    The point of a run is midway between the last swap after which it did not follow its first prompt and the next later
    one. Runs that follow the first prompt from the first swap on, or not even without a swap, have no such point and
    are counted as `never`.
    """
    done = rows[rows["error"].isna() & np.isfinite(rows["progress"].astype(float))]
    if done.empty:
        return None
    judged = done["first_probability"].notna().all()
    follows = done["first_probability"] > 0.5 if judged else done["first_distance"] < done["second_distance"]
    done = done.assign(follows=follows.astype(float), pair=done["first_prompt"] + "\0" + done["second_prompt"])
    curve = [
        {
            "lane": lane,
            "share": share,
            "progress": group["progress"].mean(),
            "log_snr": group["log_snr"].mean(),
            **_estimate(group["follows"], group["pair"]),
        }
        for (lane, share), group in done.groupby(["lane", "share"], sort=False)
    ]
    points = [_point(str(lane), group) for lane, group in done.groupby("lane", sort=False)]
    by = "CLIP" if judged else "distance in latent space"
    places = tuple(dict.fromkeys(done["device_name"].dropna())) if "device_name" in done else ()
    made = done["created_at"].max() if "created_at" in done else None
    return Commitment(pd.DataFrame(curve), pd.DataFrame(points), by, int(rows["error"].notna().sum()), places, made)


def _estimate(values: pd.Series, pairs: pd.Series) -> dict[str, float]:
    found = st.ranged_estimate(values.to_numpy(dtype=np.float64), pairs.tolist(), 0.0, 1.0)
    return {"value": found.value, "low": found.low, "high": found.high, "pairs": found.n, "runs": found.pairs}


def _point(lane: str, rows: pd.DataFrame) -> dict[str, object]:
    reached: list[tuple[str, float, float]] = []
    never = 0
    for (pair, _), run in rows.groupby(["pair", "seed"], sort=False):
        ordered = run.sort_values("share")
        against = np.flatnonzero(ordered["follows"].to_numpy() == 0)
        last = int(against[-1]) if len(against) else -1
        if last < 0 or last + 1 >= len(ordered):
            never += 1
            continue
        around = ordered.iloc[last : last + 2]
        # If only the run without a swap follows its first prompt, just one side has a log-SNR.
        reached.append((str(pair), float(around["progress"].mean()), float(around["log_snr"].mean())))
    row: dict[str, object] = {"lane": lane, "runs": len(reached), "never": never}
    pairs = [pair for pair, _, _ in reached]
    levels, places = [at for _, _, at in reached], [at for _, at, _ in reached]
    for name, values, ends in (("progress", places, ENDS["progress"]), ("log_snr", levels, ENDS["log_snr"])):
        known = np.isfinite(values)
        found = st.ranged_estimate(
            np.array(values)[known], [pair for pair, is_known in zip(pairs, known, strict=True) if is_known], *ends
        )
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high, "pairs": found.n}
    return row


def point_rows(found: Commitment) -> list[tuple[str, ...]]:
    """Where runs commit to their first prompt, as rows of text, a heading first."""
    rows: list[tuple[str, ...]] = [("lane", "committed at (progress)", "log-SNR", "n", "left out")]
    for row in found.points.to_dict("records"):
        places = (
            st.Estimate(row[axis], row[f"{axis}_low"], row[f"{axis}_high"], row["pairs"], row["runs"])
            for axis in ("progress", "log_snr")
        )
        rows.append(
            (str(row["lane"]), *map(str, places), f"{row['pairs']} pairs, {row['runs']} runs", f"{row['never']} runs")
        )
    return rows
