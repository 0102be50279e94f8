"""Deciding: prompts are added, batch by batch, until the cheapest lane as good as the baseline is known.

First the controls on the first prompts of the order, then times, then candidates. All cells are ordinary ones of the
cache, and a batch's evidence is written at once: a search that is stopped, even killed, goes on where it was.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.analysis.calibration import Calibration, calibrate
from engine.analysis.decision import BATCH, Decision, LaneCost, fix_terms
from engine.analysis.fixed_terms import FixedTerms, decision_by
from engine.analysis.pace import FEWEST_SAMPLES, by_cost
from engine.cache import decision_tables, queries
from engine.cache.connection import migrate, reading
from engine.environment import Compiling, Memory
from engine.measuring.evidence import Subject
from engine.passes.context import open_context
from engine.passes.decision_evidence import (
    CellFacts,
    Gaps,
    Reference,
    Yardsticks,
    calibration_tables,
    cell_facts,
    evidence_rows,
    guard_entries,
    needs_reference,
    paces_here,
    stored_terms,
)
from engine.passes.decision_roles import Roles, roles, try_lanes
from engine.passes.decision_vetoes import allowed_distance, prompts_for_sets, vetoes
from engine.passes.images import NO_FRAMES, ImageJob, expected_calls, make_images, missing_images
from engine.passes.live import shown_live, standings
from engine.passes.plan import plan_study
from engine.passes.scores import score, score_cells
from engine.passes.search_budget import DecideOutcome, Meter, SearchBudget
from engine.passes.timing import MissingTiming, missing_timings, take_times, timing_calls
from engine.progress import Progress
from engine.study.cells import Cell, reference_cells
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import Lane
from engine.study.prompt_pool import prompt_order
from engine.study.reference import fitting_reference
from engine.study.study import Study

if TYPE_CHECKING:
    from engine.passes.cluster import Cluster

# Prompts of which lanes that are only shown are made, and of how many the step frames are kept.
SHOWN_PROMPTS, FRAMED_PROMPTS = 8, 3
SHOWN_SHARE = 0.15  # of the budget, at most, for pictures that are made before the controls
UNTIMED = "The lanes have not been timed beside the baseline yet; another call, or a larger budget, begins with that."
# Prompts whose converged solution tells whether the guard on the latent error finds the negative control.
CONTROL_REFERENCES = 10


def decide_study(
    study: Study,
    cache: Path,
    *,
    device: str = "auto",
    memory: Memory = "standard",
    max_batch: int | None = None,
    progress: Progress | None = None,
    budget: SearchBudget | None = None,
    pool: Sequence[str] | None = None,
    cluster: "Cluster | None" = None,
    compiling: Compiling = "",
) -> DecideOutcome:
    """Adds prompts until the cheapest lane as good as the baseline is known, or pool or budget are spent.

    Args:
        study: Its lanes, its baseline, and how to decide.
        cache: The file; it is made if it is not there.
        device: "auto", "cuda", "mps" or "cpu".
        memory: "low" for cards of 6 GB.
        max_batch: Most cells that share a forward; by device unless given.
        progress: Receives reports.
        budget: The most that this call may spend; no limit unless given.
        pool: Prompts to draw from; the study's pool unless given.
        cluster: Machines that make the cells; this one does unless given.
        compiling: Which forwards are compiled.

    Raises:
        LabError: Something on the user's side is wrong; raised before any work.
    """
    where: Any = {"device": device, "memory": memory, "max_batch": max_batch, "compiling": compiling}
    context = open_context(study, cache, progress=progress, cluster=cluster, **where)
    source = context.source
    references, remark = fitting_reference(study.reference, source.scheduler_config, source.family)
    if remark:
        context.progress.note(remark)
    study = replace(study, reference=references)
    if cache.exists():
        migrate(cache)
    budget = budget or SearchBudget()
    who = roles(study, context, pool)
    with shown_live(study, cache, context.progress, budget.seconds) as told:
        search = Search(replace(who, context=replace(context, progress=told)), budget)
        search.run()
    outcome = search.outcome
    outcome.seconds = search.meter.seconds
    context.progress.finish({**outcome.facts(), "study": study.name, "cache": str(cache)})
    return outcome


class Search:
    """One call of `decide`."""

    def __init__(self, who: Roles, budget: SearchBudget) -> None:
        self.who, self.outcome = who, DecideOutcome()
        self.meter = Meter(budget, self.outcome)
        self.study, self.context = who.study, who.context
        self.subject = Subject(self.context.source, self.study.reference)
        self.entries = guard_entries(self.subject, self.study.decide.guards)
        self.solutions: dict[tuple[str, int], tuple[Cell, Cell]] = {}
        self.failed: dict[str, int] = {}
        self.vetoes: dict[str, str] = {}
        self.gaps = Gaps()
        self.heard = -1  # prompts used when sets and votes were last asked
        self.used, self.ahead = 0, 1  # prompts of the order: with evidence, and shown before there is any

    @property
    def reference(self) -> Reference | None:
        """The converged solutions made so far."""
        settings = self.study.reference
        return Reference(self.solutions, settings.tolerance) if settings else None

    def run(self) -> None:
        """Fixes the terms unless that is done, then adds batches until nothing more can be learnt here and now."""
        fixed = self._fixed()
        for line in fixed.lines:
            self.context.progress.note(line)
        while True:
            decision = self._heeded(fixed)
            self.outcome.decision = decision
            self.context.progress.note(decision.sentence)
            self.context.progress.standing(decision.sentence, standings(decision), ())
            gaps = any(row.reached(self.used) < self.used for row in decision.waiting)
            if decision.stop and not (gaps and decision.stop == "pool spent" and not self.meter.spent):
                break
            self._add_batch(fixed, decision)
        self._score_study(fixed)

    # What is fixed before candidates are looked at.

    def _fixed(self) -> FixedTerms:
        before, used, failed = stored_terms(self.context, self.study.name)
        seen = before.order[: max(used, self.study.decide.calibration_prompts)] if before else ()
        same_pool = set(seen) <= set(self.who.pool)
        pool = {*seen, *self.who.pool}
        stored = tuple(prompt for prompt in before.order if prompt in pool) if before and same_pool else ()
        ahead = try_lanes(self.who, (*stored, *self.who.pool)[0])
        order = tuple(prompt_order(ahead.distinct(self.who.pool), self.study.decide.order_seed, stored))
        known = self.entries.versions(before.terms) if before else {}
        same = before and same_pool and before.study == self.who.digest and before.measured_by(known)
        if before and same and not before.terms.calibration.obstacles:
            # New prompts stand behind those that were there; cells that failed are tried again, from the first prompt.
            versions = known | dict(before.versions)  # earlier programs kept none
            fixed = replace(before, order=order, versions=versions, about=self.who.about)
            self.used = 0 if failed else used
            if failed:
                self.entries.refuse_missing(fixed.terms)  # before the evidence is dropped
            decision_tables.write_terms(self.context.cache, self.study.name, fixed.spec(), keep_evidence=not failed)
            return fixed
        self.context.progress.standing("", {}, tuple(lane.key for lane in self.who.candidates))
        meter, shown = self.meter, (self.who.baseline, *self.who.shown)
        for self.ahead in meter.turns(min(FRAMED_PROMPTS, len(order)), SHOWN_SHARE):
            self._record(order[: self.ahead])
            self._make(self.who.cells(shown, [order[self.ahead - 1]], self.study.seeds), self.study.frames)
        calibration, scale = self._calibration(order)
        costs = [] if calibration.obstacles else self._costs(order)
        if not costs:
            costs = [self._cost(lane, math.nan) for lane in self.who.candidates]
            untimed = () if calibration.obstacles else (UNTIMED,)
            calibration = replace(calibration, obstacles=(*calibration.obstacles, *untimed))
        terms = fix_terms(self.study.decide, calibration, self.who.baseline.key, by_cost(costs, self.study.decide.tie))
        changed = before is not None and (before.changed or (used > 0 and not same))
        versions, about = self.entries.versions(terms), self.who.about
        fixed = FixedTerms(terms, order, scale, self.who.digest, changed, versions, about)
        decision_tables.write_terms(self.context.cache, self.study.name, fixed.spec(), keep_evidence=False)
        return fixed

    def _calibration(self, order: Sequence[str]) -> tuple[Calibration, float]:
        """Makes baseline and controls on the first prompts, as far as the budget goes."""
        who, wanted = self.who, order[: self.study.decide.calibration_prompts]
        cells: list[Cell] = []
        start = 0
        while start < len(wanted):
            prompts, solved = wanted[start : start + BATCH], wanted[start : min(start + BATCH, CONTROL_REFERENCES)]
            fits = self._fits([*self.who.calibrating(prompts), *self._solutions(solved)], len(prompts))
            if not fits:
                break
            prompts, solved = prompts[:fits], solved[:fits]
            batch, made = self.who.calibrating(prompts), self.outcome.made
            with self.meter.working():
                self._make(batch)
                self._solve(solved)
                self._score(batch)
            cells += batch
            start += len(prompts)
            if self.outcome.made > made:  # those of an earlier call cost this one nothing
                self.outcome.prompts += len(prompts)
        facts = self._facts(cells)
        values, controls, scale = calibration_tables(who, cells, facts, self.entries, self.reference)
        settings = self.study.decide
        # Guards that the study names have to consent whatever its prompts.
        unfit = {} if settings.guards is not None else self.entries.unfit(self.subject, order)
        asked = [metric for metric in self.entries.metrics if metric.key not in unfit]
        left_out = tuple(f"{self.entries.usable[key][0].label} does not guard: {why}." for key, why in unfit.items())
        found = calibrate(settings, asked, values, controls, referenced=self.study.reference is not None)
        allowed = allowed_distance(who, cells, facts.finished) if found.goal == "as-good" else 0.0
        lacking = self.entries.lacking(dict.fromkeys(("clip_score", *(settings.guards or ()))))
        return replace(found, obstacles=(*found.obstacles, *lacking), set_distance=allowed, left_out=left_out), scale

    def _costs(self, order: Sequence[str]) -> list[LaneCost]:
        """Times of all candidates beside the baseline, interleaved; taken together if too few can be paired.

        Empty if they don't fit what is left of the budget.
        """
        who = self.who
        lanes = (who.baseline, *who.candidates)
        cells = who.cells(lanes, order[: self.ahead], who.seeds[:1])
        self._make(cells, self.study.frames)
        settings = replace(self.study.timing, batch_sizes=(1,), repeats=max(self.study.timing.repeats, FEWEST_SAMPLES))
        paces, place = paces_here(self.context, self.study.name, who.baseline.key), self.context.environment
        if any(lane.key not in paces or paces[lane.key].n < settings.repeats for lane in who.candidates):
            with reading(self.context.cache) as db:
                every = missing_timings(db, cells, settings, self.context.source, place, anew=True)
                pace = queries.seconds_per_call(db, place.environment_id, self.context.source.model_id, cells[0])
            if not self.meter.fits_calls(timing_calls(every, self.study.timing.warmup), pace):
                return []
            self._time(every, cells)
            paces = paces_here(self.context, self.study.name, who.baseline.key)
        return [self._cost(lane, paces[lane.key].value if lane.key in paces else math.nan) for lane in who.candidates]

    def _cost(self, lane: Lane, cost: float) -> LaneCost:
        return LaneCost(lane.key, lane.label, cost, lane.scheduler.expected_calls(lane.steps), lane.stochastic)

    def _time(self, missing: Sequence[MissingTiming], cells: Sequence[Cell]) -> None:
        self.outcome.failed += take_times(self.context, missing, cells, self.study.timing.warmup).failed

    # Candidates.

    def _heeded(self, fixed: FixedTerms) -> Decision:
        """The decision, as every page shows it; before it names a lane, sets and votes are asked if they may object."""
        ahead = self._decision(fixed, self._state(fixed) | {"unheard": False})
        asked = ahead.goal == "as-good" and ahead.lane and self.heard != self.used
        if asked and self.used >= prompts_for_sets(self.who) and self._score_study(fixed):
            steps = {lane.key: lane.steps for lane in self.study.lanes}
            allowed = fixed.terms.calibration.set_distance
            with reading(self.context.cache) as db:
                self.vetoes = vetoes(db, self.study.name, self.who.baseline.key, steps, allowed)
            self.heard = self.used
        state = self._state(fixed)
        decision_tables.write_evidence(self.context.cache, self.study.name, [], state)
        return self._decision(fixed, state)

    def _decision(self, fixed: FixedTerms, state: Mapping[str, Any], prompts: int | None = None) -> Decision:
        """The decision by the evidence in the cache, or by that of its first prompts alone."""
        with reading(self.context.cache) as db:
            evidence = decision_tables.evidence(db, self.study.name)
        seen = evidence if prompts is None else evidence[evidence["position"] < prompts]
        return decision_by(fixed, seen, state)

    def _state(self, fixed: FixedTerms) -> dict[str, Any]:
        """How far the search is, as the cache keeps it beside the evidence."""
        return {
            "used": self.used,
            "left": len(fixed.order) - self.used,
            "spent": self.meter.spent,
            "failed": self.failed,
            "vetoes": self.vetoes,
            "gaps": self.gaps.reasons,
            "unheard": self.heard != self.used,
            "obstacles": self._lost(),
        }

    def _lost(self) -> list[str]:
        """What no lane is to blame for: pictures of the baseline that failed, hardly any ground truth."""
        if failed := self.failed.get(self.who.baseline.key):
            return [f"{failed:,} of the baseline's pictures failed; run the study again."]
        if self.reference is None or len(self.solutions) < CONTROL_REFERENCES:
            return []
        return self.reference.lost(self._facts([cell for pair in self.solutions.values() for cell in pair]))

    def _add_batch(self, fixed: FixedTerms, decision: Decision) -> None:
        """Makes the next prompts for every lane that may still prove the cheapest, and writes what they say."""
        who = self.who
        self.entries.refuse_missing(fixed.terms)
        waiting = decision.waiting
        if (start := self.gaps.start(waiting, self.used)) is None:
            return
        if start < self.used:
            self.heard = -1  # sets and votes know nothing of these pictures yet
        whole = start - start % BATCH
        if whole < start == self.used:  # the rest of a batch that the last call had no time for: the same lanes go on
            waiting = self._decision(fixed, self._state(fixed) | {"unheard": False}, whole).waiting
        lanes = [lane for lane in who.candidates if lane.key in {row.lane for row in waiting}]
        end = whole + BATCH if start == self.used else min(whole + BATCH, self.used)
        prompts = fixed.order[start:end]
        solved = prompts if needs_reference(waiting) else ()
        cells = who.cells((who.baseline, *lanes), prompts, who.seeds)
        fits = self._fits([*cells, *self._solutions(solved)], len(prompts))
        if not fits:
            return
        prompts, solved, cells = prompts[:fits], solved[:fits], cells[: len(cells) * fits // len(prompts)]
        self._record(fixed.order[: max(self.used, start + len(prompts))])
        with self.meter.working():
            self._make_shown(fixed.order, start, len(prompts))
            self._make(cells)
            self._solve(solved)
            self._score(cells)
        facts = self._facts(cells)
        for cell in cells:
            if cell.trajectory_id not in facts.finished:
                self.failed[cell.lane.key] = self.failed.get(cell.lane.key, 0) + 1
        guards = fixed.terms.calibration.guards
        margin = self.study.decide.excess_error
        sticks = Yardsticks(guards, self.entries, fixed.scale, self.reference, margin)
        rows = evidence_rows(sticks, who, lanes, start, cells, facts)
        fresh = max(0, start + len(prompts) - self.used)
        self.outcome.prompts += fresh
        self.used += fresh
        decision_tables.write_evidence(self.context.cache, self.study.name, rows, self._state(fixed))

    # Cells.

    def _fits(self, cells: Sequence[Cell], prompts: int) -> int:
        """How many of the prompts that some cells are of fit what is left of the budget."""
        with reading(self.context.cache) as db:
            jobs = missing_images(db, [ImageJob(cell) for cell in cells])
        return self.meter.fits(expected_calls(job.cell for job in jobs), prompts)

    def _make(self, cells: Sequence[Cell], frames: FrameSettings = NO_FRAMES, title: str = "images") -> None:
        with reading(self.context.cache) as db:
            jobs = missing_images(db, [ImageJob(cell, frames) for cell in cells])
        made = make_images(self.context, jobs, title)
        self.outcome.made += made.done
        self.outcome.failed += made.failed
        self.outcome.calls += expected_calls(job.cell for job in jobs)

    def _make_shown(self, order: Sequence[str], start: int, count: int) -> None:
        """Lanes that are only shown, for the first prompts or for all; and step frames of the first few."""
        who, study = self.who, self.study
        last = len(order) if study.decide.shown_prompts == "all" else SHOWN_PROMPTS
        self._make(who.cells(who.shown, order[start : min(start + count, last)], who.seeds))
        framed = order[start : min(start + count, FRAMED_PROMPTS)]
        self._make(who.cells((who.baseline, *who.candidates, *who.shown), framed, who.seeds), study.frames)

    def _solve(self, prompts: Sequence[str]) -> None:
        """Makes the converged solutions of prompts, and remembers them."""
        cells = self._solutions(prompts)
        if cells:
            self._make(cells, title="references")
            pairs = zip(cells[::2], cells[1::2], strict=True)
            self.solutions |= {(one.prompt, one.seed): (one, two) for one, two in pairs}

    def _solutions(self, prompts: Sequence[str]) -> list[Cell]:
        """Of each prompt and seed the converged solution, then its check; none without a reference."""
        if self.study.reference is None or not prompts:
            return []
        asked = replace(self.study, prompts=tuple(prompts), seeds=self.who.seeds)
        pairs = reference_cells(asked, self.context.source, self.context.environment.device)
        return [cell for pair in pairs for cell in pair]

    def _score(self, cells: Sequence[Cell]) -> None:
        context, keys = self.context, list(self.entries.usable)
        tally = score_cells(self.subject, cells, keys, context.cache, context.progress, context.environment.device)
        self.outcome.failed += tally.failed

    def _score_study(self, fixed: FixedTerms) -> bool:
        """Measures what was made by all metrics, for pages to show; False if there is no time left for it."""
        if self.meter.seconds >= self.meter.budget.seconds:
            self.context.progress.note(
                "No time is left for other metrics; `python -m engine score STUDY` measures by them."
            )
            return False
        context, study = self.context, self._shown(fixed.order[: max(self.used, self.ahead)])
        plan = plan_study(study, context.source, context.cache, context.environment.device, context.environment.memory)
        self.outcome.failed += score(plan, context.cache, context.progress).failed
        return True

    def _facts(self, cells: Sequence[Cell]) -> CellFacts:
        solutions = [cell for pair in self.solutions.values() for cell in pair]
        return cell_facts(self.context, [*cells, *solutions], self.entries)

    def _record(self, prompts: Sequence[str]) -> None:
        """Records what the study shows: its lanes on the prompts used so far, whether or not all are made."""
        every = self.who.cells(self.study.lanes, prompts, self.who.seeds)
        self.context.writer.begin(self._shown(prompts), every, self.context.source, self.context.environment)

    def _shown(self, prompts: Sequence[str]) -> Study:
        return replace(self.study, prompts=tuple(prompts), seeds=self.who.seeds)
