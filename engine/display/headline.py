"""The headline of a study in four figures: recommended lane, time saved, effect on the images, money saved. Pure."""

from dataclasses import dataclass
from functools import cached_property

from engine.analysis.comparison import Comparison
from engine.analysis.cost import Pricing, price_lanes
from engine.analysis.decision import LaneDecision
from engine.analysis.recommendation import NOT_DECIDED, NOT_TIMED, WORDS, Recommendation, undecided
from engine.display.formats import (
    NONE,
    count,
    duration,
    interval_note,
    known,
    labelled,
    money,
    money_range,
    number,
    number_range,
    percent,
    percent_range,
    signed,
    whole,
)
from engine.results import Results

NOT_KNOWN = "Not known yet"
NOT_SCORED = (
    "The images have not been scored yet. A run that is under way scores them after the images; "
    "otherwise run `python -m engine score`."
)
NOTHING_DECIDES = (
    "No measured metric can judge quality: this model has no CLIP, and the study has no converged solution. "
    "Add a `[reference]` table to the study to get one."
)
_REAL = "Real only if GPUs are given up."
_NAMED = 4


@dataclass(frozen=True)
class Figure:
    """A large figure with a name, a note and small print; `scheduler` adds that scheduler's mark."""

    name: str
    value: str
    note: str
    small: str = ""
    scheduler: str = ""


@dataclass(frozen=True)
class Headline:
    """The headline of a study.

    Attributes:
        results: Results of the study, with the times of one environment and batch size.
        pricing: How to price the lanes; None if unknown.
        price_is_known: Whether the price was looked up or stated; otherwise savings are given as a share.
    """

    results: Results
    pricing: Pricing | None
    price_is_known: bool = True

    @cached_property
    def unknown(self) -> str:
        """Why no lane can be recommended; empty if one can."""
        if len(self.results.lanes) < 2:
            return "The study has one lane; there is nothing to compare it with."
        if not self.results.compared_by(self.results.deciding) and self.results.decision is None:
            reasons = [reason for reason in self.results.metrics["unavailable"] if isinstance(reason, str)]
            if reasons and len(reasons) == len(self.results.metrics):
                return reasons[0]
            return NOTHING_DECIDES if self.results.comparisons else NOT_SCORED
        return self.recommendation.reason

    @cached_property
    def recommendation(self) -> Recommendation:
        """The recommended lane, or the baseline, or why neither is known."""
        return self.results.recommendation

    @property
    def lane(self) -> str:
        """The lane shown: the recommended one, or else the fastest other than the baseline; "" if there is none."""
        best = self.recommendation.best
        if best is not None and best.lane != self.results.baseline:
            return best.lane
        times = self.results.times
        others = times[~times["is_baseline"]] if len(times) else times
        return str(others["lane"].iloc[0]) if len(others) else ""

    @property
    def is_as_good(self) -> bool:
        """Whether that lane is the recommended one, and not the baseline itself."""
        best = self.recommendation.best
        return best is not None and best.lane == self.lane

    @property
    def decided(self) -> LaneDecision | None:
        """What the decision says of that lane; None if there is none, or it takes no part."""
        return self.results.decision.row(self.lane) if self.results.decision else None

    @property
    def comparison(self) -> Comparison | None:
        """How that lane compares by the metric shown first; a figure of its own, which decides nothing."""
        return self.results.comparison(self.lane)

    @property
    def quality_rests_on(self) -> str:
        """What the word on its quality rests on, e.g. "quality: n = 130 prompts"; empty if there is none."""
        if (row := self.decided) is not None:
            return f"quality: n = {_prompts(row)}" if row.guards else ""
        return f"quality: n = {self.comparison.extent}" if self.comparison else ""

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """The figures, most important first."""
        return self._recommended(), self._time(), self._quality(), self._saving()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known yet: no lane, no time, no score."""
        return all(figure.value == NOT_KNOWN for figure in self.figures[:3])

    @property
    def sentence(self) -> str:
        """The headline in one sentence."""
        base, found = self.label(self.results.baseline), self.recommendation
        if found.best is None:
            return f"No recommendation: {self.unknown[:1].lower()}{self.unknown[1:]}"
        if not self.is_as_good:
            return self._keep
        best = found.best
        interval = percent_range(1 - 1 / best.speedup_low, 1 - 1 / best.speedup_high)
        spread = f" [{interval}]" if interval != NONE else ""
        saved = percent(1 - 1 / best.speedup)
        return f"{self.label(best.lane)} saves {saved}{spread} of the time of {base} and {self._kept}."

    @property
    def _keep(self) -> str:
        """Why the baseline stays, and what is needed to decide."""
        decision = self.results.decision
        if decision is None:
            return undecided(self.label(self.results.baseline))
        return labelled(decision.sentence, self.results.lane_labels)

    @property
    def _kept(self) -> str:
        """The evidence for the recommended lane, e.g. "keeps the picture in 99 % [97, 100] of 130 prompts"."""
        return self.decided.kept if self.decided else ""

    @property
    def reservations(self) -> tuple[str, ...]:
        """Sentences that say which other lanes were not chosen, and why."""
        found = self.recommendation
        sentences = []
        if found.passed_over:
            named = ", ".join(f"{self.label(lane)} ({why})" for lane, why in found.passed_over[:_NAMED])
            more = f" and {len(found.passed_over) - _NAMED} more" if len(found.passed_over) > _NAMED else ""
            sentences.append(f"Cheaper, but not known to be as good: {named}{more}.")
        if found.faster:
            sentences.append(f"Also as good, and faster here: {', '.join(map(self.label, found.faster))}.")
        if found.untimed:
            sentences.append(f"As good, but not timed often enough: {', '.join(map(self.label, found.untimed))}.")
        return tuple(sentences)

    def label(self, lane: str) -> str:
        """Display name of a lane."""
        return self.results.lane_label(lane)

    @property
    def _batch_size(self) -> int:
        """Batch size at which the lanes were timed."""
        return int(self.results.times["batch_size"].iloc[0]) if len(self.results.times) else 1

    def _an_image(self, milliseconds: float) -> str:
        """The time of one image, given that of its batch."""
        return duration(milliseconds / self._batch_size)

    def _recommended(self) -> Figure:
        found = self.recommendation
        if found.best is None or self.unknown:
            return Figure("Recommended", NOT_KNOWN, self.unknown)
        best, base = found.best, self.label(self.results.baseline)
        name, lane = self.label(best.lane), self.results.lane(best.lane)
        scheduler = "" if lane is None else lane.scheduler
        if best.lane == self.results.baseline:
            return Figure("Recommended", name, self._keep, scheduler=scheduler)
        second = found.runner_up
        small = f"Runner-up: {self.label(second.lane)}, {self._an_image(second.median_ms)} per image" if second else ""
        small += "; the intervals of their times overlap." if found.order_is_open else "." if small else ""
        cheapest = not found.faster and best.speedup >= 1
        note = f"{'The cheapest lane known' if cheapest else 'Known'} to be as good as {base}: it {self._kept}."
        return Figure("Recommended", name, note, small, scheduler)

    def _time(self) -> Figure:
        title, lane = "Time saved" if self.is_as_good else "Time saved by the fastest", self.lane
        if self.results.times.empty or not lane:
            return Figure(title, NOT_KNOWN, NOT_TIMED if self.results.times.empty else "No other lane was timed.")
        row = self.results.times.set_index("lane").loc[lane]
        name = "" if self.is_as_good else f"{self.label(lane)}: "
        if not known(row["speedup"]):
            return Figure(
                title,
                NOT_KNOWN,
                f"{name}{self._an_image(row['median_ms'])} per image; the baseline has not been timed here.",
            )
        base = self.results.times[self.results.times["is_baseline"]].iloc[0]
        interval = percent_range(1 - 1 / row["speedup_low"], 1 - 1 / row["speedup_high"])
        note = (
            f"{name}{self._an_image(row['median_ms'])} instead of {self._an_image(base['median_ms'])} per image, "
            "all stages"
        )
        note += f": the time of a batch of {self._batch_size}, divided by it." if self._batch_size > 1 else "."
        return Figure(
            title, percent(1 - 1 / row["speedup"]), note, _sentence(interval_note(row["n"], interval, row["settled"]))
        )

    def _quality(self) -> Figure:
        title = "Quality" if self.is_as_good or not self.lane else f"Quality of {self.label(self.lane)}"
        if (row := self.decided) is not None:
            return Figure(title, WORDS[row.status].capitalize(), _why(row), _extent(row))
        score = self.comparison
        if score is None:
            return Figure(title, NOT_KNOWN, "There are no scores to compare it by.")
        gap = score.difference
        base = f"{self.label(self.results.baseline)}'s {number(score.baseline_mean.value)}"
        note = "Whether it is as good has not been asked. "
        note += f"Its mean {score.label} differs by {signed(gap.value)} from {base}."
        interval = number_range(gap.low, gap.high)
        small = f"95 % interval {interval}" if interval != NONE else "Too few prompts for an interval"
        return Figure(title, NOT_DECIDED.capitalize(), note, f"{small}, {score.extent}.")

    def _saving(self) -> Figure:
        lane, pricing = self.lane, self.pricing
        if not self.is_as_good or pricing is None:
            why = "A saving counts only at equal quality." if pricing else "No prices are known."
            return Figure("Saved a month", "None known", why)
        if not pricing.fits(str(self.results.times["device_name"].iloc[0])):
            return Figure("Saved a month", NOT_KNOWN, "The times were not measured on the device that is priced.")
        row = price_lanes(self.results.times, pricing.rate, pricing.work, pricing.seconds).set_index("lane").loc[lane]
        work = pricing.work
        month = (
            f"{whole(work.images_per_month)} images, {money(pricing.rate.usd_per_hour)} per GPU hour, "
            f"{100 * work.utilisation:.0f} % busy"
        )
        if not self.price_is_known:
            ends = percent_range(row["saving_share_low"], row["saving_share_high"])
            note = f"When paid by use, at any hourly price; {money(row['saving_usd'])} a month for {month}."
            return Figure("Cost saved", percent(row["saving_share"]), note, _real(ends))
        ends = money_range(row["saving_usd_low"], row["saving_usd_high"])
        return Figure("Saved a month", money(row["saving_usd"]), f"Assumed: {month}.", _real(ends))


def _why(row: LaneDecision) -> str:
    """Why a lane stands where it does; of accepted ones the names of the guards, whose figures have a table."""
    if row.status != "accepted":
        return row.reason
    labels = (guard.guard.label for guard in row.guards)
    named = ", ".join(label if label[1:2].isupper() else label[:1].lower() + label[1:] for label in labels)
    return f"Accepted by every guard: {named}."


def _extent(row: LaneDecision) -> str:
    """E.g. "20 to 109 prompts, 4 guards."."""
    if not row.guards:
        return ""
    return f"{_prompts(row)}, {count(len(row.guards), 'guard')}."


def _prompts(row: LaneDecision) -> str:
    most = max(guard.n for guard in row.guards)
    return count(row.n, "prompt") if most == row.n else f"{row.n:,} to {count(most, 'prompt')}"


def _real(ends: str) -> str:
    return f"Range {ends}. {_REAL}" if ends != NONE else _REAL


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
