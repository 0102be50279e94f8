"""What an image costs on a rented GPU, and what a lane saves: from measured times to money. Reads one file of prices.

Units: US dollars; seconds of one GPU; a month has 730 hours. Two ways of paying, never mixed:

- By use: price per hour times the busy GPU seconds of an image, divided by the utilisation (busy seconds per paid
  second). The saving is proportional to the time saved. Applies if seconds are billed.
- Whole GPUs: a fleet that runs all month. Its size is what the peak needs (`queueing`), or, without a peak, the month's
  busy hours divided by the utilisation, rounded up. Less time saves money only if GPUs are released.

A saving is baseline minus lane. Its range covers both ends of the intervals of the baseline's time and of the ratio of
the times (`timing.summarise`): somewhat wider than a 95 % interval of the saving itself.
"""

import itertools
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from engine.analysis.queueing import servers_needed
from engine.errors import LabError

MONTH_HOURS = 730
MONTH_SECONDS = MONTH_HOURS * 3600
WAIT_SHARE = 0.95

Billing = Literal["on-demand", "serverless", "spot", "marketplace"]
Confidence = Literal["A", "B", "C"]
FIGURES = ("seconds", "usd_1k", "usd_month", "saving_usd", "saving_share", "gpus", "fleet_usd", "fleet_saving_usd")
COLUMNS = [f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")] + ["fleet_busy"]


class PriceError(LabError):
    """The file of GPU prices cannot be used as written."""


@dataclass(frozen=True)
class Preset:
    """A published price, as in `data/gpu_prices.toml`.

    Attributes:
        key: Stable name; it ends with the date.
        as_of: Day or month that the source states, "2026-11-09" or "2026-03".
        source: Where it was read.
        confidence: "A" price API, "B" the provider's page, "C" an article.
        sold_in: Number of GPUs that are only rented together.
        device: The driver's name of the GPU, or "".
    """

    key: str
    gpu: str
    provider: str
    product: str
    usd_per_hour: float
    billing: Billing
    as_of: str
    source: str
    confidence: Confidence
    sold_in: int = 1
    device: str = ""


@dataclass(frozen=True)
class Rate:
    """What an hour of one GPU costs, and how many are rented together."""

    usd_per_hour: float
    sold_in: int = 1


@dataclass(frozen=True)
class Workload:
    """How many images are needed, and how soon.

    Attributes:
        images_per_month: More than 0.
        utilisation: Busy seconds per paid second, more than 0, at most 1; for payment by use.
        peak_per_second: Requested images per second at the busiest time; 0 if unknown.
        wait_seconds: 95 % of the images at peak wait at most this long before they are started.
    """

    images_per_month: float
    utilisation: float
    peak_per_second: float = 0.0
    wait_seconds: float = 5.0

    @property
    def arrivals_per_second(self) -> float:
        """The peak, but at least the month's average."""
        return max(self.peak_per_second, self.images_per_month / MONTH_SECONDS)


@dataclass(frozen=True)
class Clip:
    """The length of a clip.

    Attributes:
        frames: Number of frames, 2 or more.
        frames_per_second: Playback rate: the reader's choice, since models don't fix it.
    """

    frames: int
    frames_per_second: float

    @property
    def seconds(self) -> float:
        """Seconds of video."""
        return self.frames / self.frames_per_second


@dataclass(frozen=True)
class Pricing:
    """The choices of the reader.

    Attributes:
        preset: The GPU and its price; None for the reader's own price.
        seconds: Seconds per image of the baseline on the priced GPU; None for the measured times.
        lane: The lane compared with the baseline, or "".
        clip: The clips that the study makes; None for pictures.
    """

    preset: Preset | None
    rate: Rate
    work: Workload
    seconds: float | None
    lane: str
    clip: Clip | None = None

    def fits(self, device: str) -> bool:
        """Whether times measured on a device can be priced: the price is for that GPU, or only ratios are used."""
        return self.preset is None or self.seconds is not None or self.preset.device == device


def load_presets(path: Path) -> list[Preset]:
    """The prices of a file, in its order.

    Raises:
        PriceError: It cannot be read, or an entry doesn't follow the rules in the file's header.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PriceError(f"{path}: {error}") from error
    sources, prices = data.get("sources", {}), data.get("prices", {})
    if not isinstance(sources, dict) or not isinstance(prices, dict):
        raise PriceError(f"{path}: [sources] and [prices.KEY] have to be tables")
    return [_preset(f"{path}: [prices.{key}]", key, entry, sources) for key, entry in prices.items()]


_DATE = re.compile(r"20\d\d-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")
_TEXTS = ("gpu", "provider", "product", "billing", "as_of", "source", "confidence")


def _preset(where: str, key: str, entry: Any, sources: Mapping[str, Any]) -> Preset:
    needed = {*_TEXTS, "usd_per_hour"}
    if not isinstance(entry, dict) or not needed <= entry.keys() <= {*needed, "sold_in", "device"}:
        raise PriceError(f"{where} needs {', '.join(_TEXTS)} and usd_per_hour, and may have sold_in and device")
    texts, price, together = [entry[name] for name in _TEXTS], entry["usd_per_hour"], entry.get("sold_in", 1)
    checks = {
        "texts have to be texts, and not empty": all(isinstance(text, str) and text for text in texts),
        "device has to be a text": isinstance(entry.get("device", ""), str),
        "usd_per_hour has to be a number above 0": type(price) in (int, float) and 0 < price < math.inf,
        "sold_in has to be a whole number above 0": type(together) is int and together > 0,
        f"billing is one of {', '.join(get_args(Billing))}": entry["billing"] in get_args(Billing),
        f"confidence is one of {', '.join(get_args(Confidence))}": entry["confidence"] in get_args(Confidence),
        "as_of is a date like 2026-11-09 or 2026-11": _DATE.fullmatch(str(entry["as_of"])) is not None,
        "the key ends with the date": key.endswith(f"-{entry['as_of']}"),
        "source is one of [sources]": isinstance(sources.get(str(entry["source"])), str),
    }
    wrong = [rule for rule, kept in checks.items() if not kept]
    if wrong:
        raise PriceError(f"{where}: {'; '.join(wrong)}")
    return Preset(**{**entry, "key": key, "source": sources[entry["source"]], "usd_per_hour": float(price)})


def usd_per_1000(seconds: float, usd_per_hour: float, utilisation: float) -> float:
    """Dollars for 1,000 images paid by use: price x seconds x 1000 / 3600 / utilisation."""
    return usd_per_hour * seconds * 1000 / 3600 / utilisation


def usd_per_month(seconds: float, usd_per_hour: float, work: Workload) -> float:
    """Dollars a month paid by use, in proportion to the seconds."""
    return usd_per_1000(seconds, usd_per_hour, work.utilisation) * work.images_per_month / 1000


def video_per_hour(seconds: float, clip: Clip) -> float:
    """Seconds of video that a busy GPU makes in an hour: 3600 x seconds of the clip / seconds it takes."""
    return 3600 * clip.seconds / seconds


def video_per_usd(seconds: float, clip: Clip, usd_per_hour: float, utilisation: float) -> float:
    """Seconds of video for a dollar paid by use: those of a busy hour x utilisation / price per hour."""
    return video_per_hour(seconds, clip) * utilisation / usd_per_hour


def gpus_needed(seconds: float, batch_size: int, work: Workload) -> int:
    """GPUs that must run all month; 1 or more.

    With a peak: Erlang C with batches as customers, without the time to fill a batch. Without: the month's busy hours /
    utilisation / 730, rounded up.
    """
    if work.peak_per_second > 0:
        arrivals = work.arrivals_per_second / batch_size
        return servers_needed(arrivals, seconds * batch_size, work.wait_seconds, WAIT_SHARE)
    return max(1, math.ceil(round(work.images_per_month * seconds / work.utilisation / MONTH_SECONDS, 9)))


def usd_per_month_fleet(gpus: int, usd_per_hour: float) -> float:
    """Dollars a month for GPUs that run all the time: GPUs x price x 730 hours."""
    return gpus * usd_per_hour * MONTH_HOURS


def price_lanes(
    table: pd.DataFrame,
    rate: Rate,
    work: Workload,
    baseline_seconds: float | None = None,
    clip: Clip | None = None,
) -> pd.DataFrame:
    """Adds `COLUMNS` to timing summaries of one environment and batch size.

    Args:
        table: Rows of `timing.summarise` with a column `is_baseline`.
        rate: The price of the machine the times were measured on; or, with `baseline_seconds`, of another.
        work: What to make.
        baseline_seconds: Seconds per image of the baseline on the priced GPU, as the reader states them. The lanes are
            then scaled by the measured ratio of times: an assumption, since the ratio differs from machine to machine.
        clip: What the study makes, if that is clips: `VIDEO_FIGURES` are added too, with `_low` and `_high`.

    Returns:
        The rows in their order. `gpus` is the number to rent; `fleet_busy` is the share of the month they are busy.
        Unknown values (no baseline, too few samples for an interval) are NaN.
    """
    base = table[table["is_baseline"]].head(1)
    rows = [
        _priced(row, None if base.empty else base.iloc[0], rate, work, baseline_seconds) for _, row in table.iterrows()
    ]
    figures = pd.DataFrame(rows, columns=COLUMNS, index=table.index, dtype=float)
    parts = [table, figures] if clip is None else [table, figures, _video(figures, rate, work, clip)]
    return pd.concat(parts, axis=1)


def _video(priced: pd.DataFrame, rate: Rate, work: Workload, clip: Clip) -> pd.DataFrame:
    """Seconds of video per dollar and per hour; the longest time per clip gives the lowest value."""
    found = pd.DataFrame(index=priced.index)
    for end, seconds in (("", "seconds"), ("_low", "seconds_high"), ("_high", "seconds_low")):
        found[f"video_usd{end}"] = video_per_usd(priced[seconds], clip, rate.usd_per_hour, work.utilisation)
        found[f"video_hour{end}"] = video_per_hour(priced[seconds], clip)
    return found


def _priced(row: Any, base: Any, rate: Rate, work: Workload, stated: float | None) -> dict[str, float]:
    batch = int(row["batch_size"])
    measured = [row[name] / 1000 / batch for name in ("median_ms", "low_ms", "high_ms")]
    speedups = [row[name] for name in ("speedup", "speedup_high", "speedup_low")]
    times = measured if stated is None else [stated / speedup for speedup in speedups]
    formulas: dict[str, Callable[[float], float]] = {
        "seconds": lambda seconds: seconds,
        "usd_1k": lambda seconds: usd_per_1000(seconds, rate.usd_per_hour, work.utilisation),
        "usd_month": lambda seconds: usd_per_month(seconds, rate.usd_per_hour, work),
        "gpus": lambda seconds: -(-gpus_needed(seconds, batch, work) // rate.sold_in) * rate.sold_in,
    }
    formulas["fleet_usd"] = lambda seconds: usd_per_month_fleet(int(formulas["gpus"](seconds)), rate.usd_per_hour)
    found = {
        f"{name}{end}": formula(seconds) if _told(seconds) else np.nan
        for name, formula in formulas.items()
        for end, seconds in zip(("", "_low", "_high"), times, strict=True)
    }
    found["fleet_busy"] = work.images_per_month * times[0] / (found["gpus"] * MONTH_SECONDS)
    if base is None:
        return found
    measured = [base[name] / 1000 / batch for name in ("median_ms", "low_ms", "high_ms")]
    bases = measured if stated is None else [stated] * 3
    if not (_told(bases[0]) and _told(speedups[0])):
        return found
    for name, cost in (("saving_usd", formulas["usd_month"]), ("fleet_saving_usd", formulas["fleet_usd"])):
        found |= _ranged(name, lambda time, ratio: cost(time) - cost(time / ratio), bases, speedups)  # noqa: B023
    found |= _ranged("saving_share", lambda _, ratio: 1 - 1 / ratio, bases, speedups)
    return found


def _told(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _ranged(
    name: str, figure: Callable[[float, float], float], bases: list[float], ratios: list[float]
) -> dict[str, float]:
    """The figure at the medians; lowest and highest at the ends of both intervals, NaN without them."""
    found = {name: figure(bases[0], ratios[0])}
    if all(map(_told, (*bases[1:], *ratios[1:]))):
        ends = [figure(time, ratio) for time, ratio in itertools.product(bases[1:], ratios[1:])]
        found |= {f"{name}_low": min(ends), f"{name}_high": max(ends)}
    return found
