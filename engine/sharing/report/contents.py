"""Contents of a report: results of a study, verdicts on claims, a selection of pictures, and a price."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from engine.analysis.claims import Claim, ClaimVerdict, lanes_of, read_claims
from engine.analysis.cost import Preset, PriceError, Pricing, Rate, Workload, load_presets, price_lanes
from engine.analysis.timing_summary import counted
from engine.cache.connection import Connection
from engine.display.headline import Headline
from engine.errors import did_you_mean
from engine.paths import CLAIMS, DATA
from engine.results import Results, read_results
from engine.sharing.file_formats import IMAGES_PER_MONTH, UTILISATION
from engine.sharing.pictures import CellPictures, load_pictures
from engine.study.cells import evenly_spaced

GPU_PRICES = DATA / "gpu_prices.toml"
MAX_PROMPTS = 6
MAX_LANES = 40
FRAMES = 12
# Sides of pictures in memory, as large as they are shown (px); with many cells, steps are smaller.
SIDE, STEP_SIDE, SMALL_STEP_SIDE, MANY_CELLS = 256, 192, 128, 96
OWN_RATE = 1.0


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report.

    Attributes:
        claims: File of the claims to test.
        price: Key of a preset in `data/gpu_prices.toml`; None: that of the measured GPU, or `usd_per_hour`.
        usd_per_hour: Hourly price of the machine on which the times were measured, instead of a preset.
        seconds: Seconds per image of the baseline on the priced GPU, if it is not the measured one.
        images_per_month: More than 0.
        utilisation: Busy seconds per paid second.
    """

    claims: Path = CLAIMS
    price: str | None = None
    usd_per_hour: float | None = None
    seconds: float | None = None
    images_per_month: float = IMAGES_PER_MONTH
    utilisation: float = UTILISATION


@dataclass(frozen=True)
class Report:
    """The contents of a report.

    Attributes:
        known_claims: The claims to test.
        prompts: Prompts whose pictures are shown.
        seed: Seed of those pictures.
        kind: Kind of the step pictures, "x0" or "xt".
        cells: (lane, prompt) -> trajectory id.
        pictures: Pictures by trajectory id, decoded on access.
        pricing: How lanes are priced.
        price_note: Source of the price.
        price_is_known: Whether the price was looked up or stated; otherwise it is a placeholder.
        made_at: UTC.
    """

    results: Results
    known_claims: tuple[Claim, ...]
    prompts: tuple[str, ...]
    seed: int
    kind: str
    cells: Mapping[tuple[str, str], str]
    pictures: Mapping[str, CellPictures] = field(repr=False)
    pricing: Pricing
    price_note: str
    price_is_known: bool
    made_at: datetime.datetime

    @cached_property
    def claims(self) -> tuple[ClaimVerdict, ...]:
        """Verdicts on the claims; empty if this study cannot test any of them, or while cells are still to run."""
        if self.results.awaited:
            return ()
        verdicts = self.results.claim_verdicts(self.known_claims)
        return verdicts if any(verdict.word != "not testable" for verdict in verdicts) else ()

    @cached_property
    def priced(self) -> pd.DataFrame:
        """Timing summaries with costs (`price_lanes`); empty if the price does not apply to the measured machine."""
        times = self.results.times
        if times.empty or not self.pricing.fits(str(times["device_name"].iloc[0])):
            return times.head(0)
        return price_lanes(times, self.pricing.rate, self.pricing.work, self.pricing.seconds)

    @cached_property
    def headline(self) -> Headline:
        """The headline: recommended lane, time and money saved, effect on the images."""
        return Headline(self.results, self.pricing, self.price_is_known)

    @property
    def shown_lanes(self) -> pd.DataFrame:
        """The lanes whose pictures are shown."""
        return self.results.lane_table.head(MAX_LANES)


def read_report(db: Connection, study: str, options: ReportOptions | None = None) -> Report:
    """Reads a study and a selection of its pictures; everything derived is computed on access.

    Raises:
        StudyError: There is no such study, or the claims cannot be read.
        PriceError: There is no such price.
    """
    options = options or ReportOptions()
    known = read_claims(options.claims)
    results = read_results(db, study, lanes_of(known))
    places = evenly_spaced(len(results.prompts), MAX_PROMPTS)
    prompts, seed = tuple(results.prompts[place] for place in places), next(iter(results.seeds), 0)
    shown = set(results.lane_table["lane"].head(MAX_LANES))
    rows = results.cells
    rows = rows[(rows["seed"] == seed) & rows["prompt"].isin(prompts) & rows["study_lane"].isin(shown)]
    cells = {(row.study_lane, row.prompt): row.trajectory_id for row in rows.itertuples()}
    kinds = (results.spec.get("frames") or {}).get("kinds") or ["x0"]
    kind = "x0" if "x0" in kinds else str(kinds[0])
    step_side = STEP_SIDE if len(cells) <= MANY_CELLS else SMALL_STEP_SIDE
    pricing, note = _pricing(options, _device(results.samples))
    return Report(
        results,
        tuple(known),
        prompts,
        seed,
        kind,
        cells,
        load_pictures(db, list(cells.values()), kind, SIDE, FRAMES, step_side, every=False),
        pricing,
        note,
        pricing.preset is not None or options.usd_per_hour is not None,
        datetime.datetime.now(datetime.UTC),
    )


def _device(timings: pd.DataFrame) -> str:
    """The machine whose times are used; empty if nothing was timed."""
    rows = counted(timings)
    return str(rows["device_name"].iloc[0]) if len(rows) else ""


def _pricing(options: ReportOptions, device: str) -> tuple[Pricing, str]:
    work = Workload(options.images_per_month, options.utilisation)
    presets = {preset.key: preset for preset in load_presets(GPU_PRICES)}
    if options.price is not None and options.price not in presets:
        raise PriceError(
            f"There is no price '{options.price}'.{did_you_mean(options.price, presets)} "
            f"Those of {GPU_PRICES.name}: {', '.join(presets)}."
        )
    preset = presets[options.price] if options.price else None
    if preset is None and options.usd_per_hour is None:
        preset = next((entry for entry in presets.values() if device and entry.device == device), None)
    if preset is not None:
        return Pricing(preset, Rate(preset.usd_per_hour, preset.sold_in), work, options.seconds, ""), _source(preset)
    rate = OWN_RATE if options.usd_per_hour is None else options.usd_per_hour
    note = f"Price: ${rate:g} per hour of the measured machine, {device or 'not timed'}"
    if options.usd_per_hour is None:
        note += ", a placeholder, since no price of this machine is on file; costs scale with it"
    return Pricing(None, Rate(rate), work, options.seconds, ""), note + "."


def _source(preset: Preset) -> str:
    note = (
        f"Price: ${preset.usd_per_hour:g} per GPU hour, {preset.gpu} at {preset.provider} "
        f"({preset.product}, {preset.billing}), as of {preset.as_of}, from {preset.source}; "
        f"confidence {preset.confidence}."
    )
    return note + (f" Rented {preset.sold_in} at a time." if preset.sold_in > 1 else "")
