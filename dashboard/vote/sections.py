"""Sections of the Vote page: the contest, the ballot, and the results."""

import re
import uuid
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import state
from dashboard.cache_access import Answer, Problem, ask
from dashboard.loaders import PagePicture
from dashboard.options import Options
from dashboard.page import require, say_stale
from dashboard.vote.data import CHECK_EVERY, Contest, Pair, VoteTally, answered_and_next, pair_pictures, pairs, tally
from engine.analysis.statistics import MIN_PROMPTS, Estimate
from engine.analysis.votes import FEWEST_ONE_SIDED, MARGIN, MOST_WRONG, POWER, Preference
from engine.cache.vote_table import SCORED, cast
from engine.display import html
from engine.display.formats import NONE, count, percent, percent_range, when
from engine.display.headline import Figure
from engine.display.tables import INTERVAL, FilledColumn, ResultTable, bold, name_of, table_of
from engine.errors import CacheError
from engine.results import Results

HOW = (
    f"There is an attention check after every {CHECK_EVERY} pairs: the same picture twice or, if the study has a lane "
    "of very few steps, a picture of that lane. Checks do not count as votes.",
    f"Voters who get more than {MOST_WRONG:.0%} of two or more obvious pairs wrong are excluded; so are those who "
    f"always choose the same side, identical pictures included, in {FEWEST_ONE_SIDED} pairs or more.",
    "'No difference' counts as half a vote for each lane. Intervals: bootstrap over prompts, since votes on the same "
    "prompt are correlated. Equivalent: within the margin around 50 % by two one-sided tests at 5 % "
    "and by the interval.",
    "Choose margin and power before the first vote. Half the margin takes four times as many votes.",
    "Each browser gets a random id, and one vote per pair.",
)
MARGINS = {"5": "±5 points", "10": "±10 points", "15": "±15 points", "20": "±20 points"}
POWERS = {"80": "80 %", "90": "90 %"}
LONGEST_SECONDS = 3600.0
_HERE = Path(__file__).parent
_ballot = st.components.v2.component(
    "lab_ballot",
    html='<div class="ballot"></div>',
    css=(_HERE / "ballot.css").read_text(encoding="utf-8"),
    js=(_HERE / "ballot.js").read_text(encoding="utf-8"),
)


def choose_contest(study: Results) -> Contest | None:
    """Lets the reader choose two lanes, margin and power; None if the study has fewer than two lanes."""
    names = study.lane_labels
    if len(names) < 2:
        st.html(html.note("There is nothing to compare", "A vote needs two lanes; this study has only one."))
        return None
    with st.expander("What is compared (voters need not open this)"):
        left, right = st.columns(2)
        first = study.baseline if study.baseline in names else next(iter(names))
        with left:
            one = state.choose_from("one", "First lane", names, first)
        others = {key: label for key, label in names.items() if key != one}
        with right:
            two = state.choose_from("two", "Second lane", others, next(iter(others)))
        with left:
            margin = state.choose_from("margin", "Equivalent within", MARGINS, f"{100 * MARGIN:.0f}")
        with right:
            power = state.choose_from("power", "Power to show it", POWERS, f"{100 * POWER:.0f}")
        st.html(html.soft("The URL of this page contains these choices: send it to the people who should vote."))
        st.html(html.method(HOW))
    steps = tuple((lane.key, lane.steps) for lane in study.lanes)
    return Contest(one, two, steps, int(margin) / 100, int(power) / 100)


def address(contest: Contest) -> dict[str, str]:
    """Query parameters of a contest for the URL of the page."""
    shares = {"margin": contest.margin, "power": contest.power}
    return {"one": contest.one, "two": contest.two, **{name: f"{100 * share:.0f}" for name, share in shares.items()}}


def results(chosen: Options, study: Results, contest: Contest) -> None:
    """Shows the results so far, only on request, so that they don't influence voters."""
    if not st.toggle("Show the results so far", key="results", bind="query-params"):
        return
    names = study.lane_labels
    answer = require(lambda: tally(chosen.cache, study.id, contest))
    found = answer.value
    asked = found.preference
    if answer.stale:
        say_stale()
    st.html(html.figures(_cards(found, contest, names)))
    st.html(html.soft(_sentence(asked, names)))
    if found.side.pairs:
        st.html(html.soft(_side(found.side)))
    if found.ranking:
        st.html(html.heading("Ranking", "Bradley-Terry strengths in Elo points; 100 points are odds of 1.8 to 1."))
        st.html(html.table(_ranking(found, study)))
    st.html(html.footer(_basis(found)))


def _cards(found: VoteTally, contest: Contest, names: dict[str, str]) -> list[Figure]:
    asked = found.preference
    interval = percent_range(asked.low, asked.high)
    note = (
        f"95 % interval {interval}, n = {asked.votes}"
        if asked.votes and asked.low == asked.low
        else f"n = {asked.votes}"
    )
    left = 0 if asked.verdict == "equivalent" else max(asked.needed - asked.votes, 0)
    shown = f"of {asked.needed}, to show equivalence with {100 * contest.power:.0f} % power"
    return [
        Figure(f"Preferred {names[asked.lane]} to {names[asked.other]}", percent(asked.value), note),
        Figure("Verdict", asked.verdict, f"margin ±{100 * contest.margin:.0f} points"),
        Figure("Votes still needed", str(left), shown),
    ]


def _sentence(asked: Preference, names: dict[str, str]) -> str:
    one, two = names[asked.lane], names[asked.other]
    return {
        "equivalent": f"Within the margin, voters have no preference between {one} and {two}.",
        "preferred": f"Voters prefer {one}.",
        "not preferred": f"Voters prefer {two}.",
        "undecided": "The votes do not decide it yet, which does not mean that the lanes are equal.",
        "too few": f"Too few votes: at least {MIN_PROMPTS} prompts are needed.",
    }[asked.verdict]


def _side(side: Estimate) -> str:
    """How often voters chose the left one of two identical pictures."""
    interval = percent_range(side.low, side.high)
    spread = "too few voters for an interval" if interval == NONE else f"95 % interval {interval}"
    basis = f"{spread}, {count(side.pairs, 'vote')} by {count(side.n, 'voter')}"
    share = percent(side.value)
    text = f"Of two identical pictures, voters chose the left one in {share} ({basis}); 50 % is expected."
    leans = side.high < 0.5 or side.low > 0.5
    return text + (" They prefer a side. Sides are random, so this adds noise but favours no lane." * leans)


def _ranking(found: VoteTally, study: Results) -> ResultTable:
    lanes = {lane.key: name_of(lane, study.baseline) for lane in study.lanes}
    columns: list[FilledColumn] = [
        ("Lane", lambda row: lanes[row.lane]),
        ("Elo points", lambda row: bold(f"{row.elo:+.0f}")),
        (INTERVAL, lambda row: f"{row.low:+.0f} to {row.high:+.0f}" if row.low == row.low else NONE),
        ("Votes", lambda row: str(row.votes)),
    ]
    return table_of("Ranking", found.ranking, columns)


def _basis(found: VoteTally) -> list[str]:
    asked = found.preference
    return [
        f"n = {count(asked.votes, 'vote')} on {count(asked.prompts, 'prompt')} by {count(asked.voters, 'voter')}",
        f"{found.cast} votes in total, {found.checks} of them checks",
        f"{count(found.left_out, 'voter')} excluded" if found.left_out else "",
        f"{when(found.first)} to {when(found.last)}" if found.last is not None else "",
    ]


def ballot(chosen: Options, study: Results, lane: str, other: str) -> None:
    """Shows one pair at a time and stores each choice at once; a fragment, so that a vote redraws nothing else."""

    @st.fragment
    def body() -> None:
        voter = _voter()
        if not voter:
            _ballot(key="ballot_voter", data={"key": ""}, on_voter_change=_remember)
            return
        place = f"voted {study.id} {voter}"
        every = pairs(study, lane, other, voter)
        found = None
        if place not in st.session_state:
            st.session_state[place], found = answered_and_next(chosen.cache, study.id, voter, every)
        voted: set[str] = st.session_state[place]
        left = [pair for pair in every if pair.key not in voted]
        found = ask(chosen.cache, pair_pictures(left)) if found is None and left else found
        _ask(chosen, study, voter, left, voted, len(every), found)

    body()


def _ask(
    chosen: Options,
    study: Results,
    voter: str,
    left: Sequence[Pair],
    voted: set[str],
    total: int,
    found: Answer[list[PagePicture]] | Problem | None,
) -> None:
    if st.session_state.pop("vote_lost", None):
        st.html(html.note("Your vote could not be saved", "The cache is in use. Please answer this pair again."))
    if not left or found is None:
        st.html(html.note("Thank you, that was the last pair", f"You have answered all {count(total, 'pair')}."))
        return
    pair = left[0]
    if isinstance(found, Problem):
        st.html(html.note(found.title, found.detail))
        return
    sources: dict[str, list[PagePicture]] = {}
    for picture in found.value:  # frame by frame
        sources.setdefault(picture.trajectory_id, []).append(picture)
    if pair.left_id not in sources or pair.right_id not in sources:
        voted.add(pair.key)
        st.rerun(scope="fragment")
    st.progress((total - len(left)) / total, text=f"Pair {total - len(left) + 1} of {total}. Which picture is better?")

    def answer() -> None:
        given = st.session_state["ballot"].choice
        if _take(chosen, study, voter, pair, given):
            voted.add(pair.key)

    one, two = sources[pair.left_id], sources[pair.right_id]
    _ballot(
        key="ballot",
        data={
            "key": pair.key,
            "prompt": pair.prompt,
            "left": [picture.source for picture in one],
            "right": [picture.source for picture in two],
            "small": one[0].width < html.SMALL_PIXELS,
        },
        on_choice_change=answer,
    )


def _take(chosen: Options, study: Results, voter: str, pair: Pair, given: Any) -> bool:
    """Stores a choice if it is valid and belongs to the pair shown; returns whether it was stored."""
    if chosen.read_only or not isinstance(given, dict) or given.get("key") != pair.key:
        return False
    choice, seconds = given.get("choice"), given.get("seconds")
    if choice not in SCORED or not isinstance(seconds, int | float):
        return False
    try:
        cast(chosen.cache, pair.vote(study.id, voter, choice, min(max(float(seconds), 0.0), LONGEST_SECONDS)))
    except CacheError:
        st.session_state["vote_lost"] = True
        return False
    return True


def _remember() -> None:
    name = str(st.session_state["ballot_voter"].voter or "")
    st.session_state["voter"] = name if re.fullmatch(r"[0-9a-f]{32}", name) else uuid.uuid4().hex


def _voter() -> str:
    """Random id of the voter: of the signed-in user, else of the browser; empty until the browser has sent it."""
    user = dict(st.user)
    if user.get("is_logged_in"):
        return sha256(f"{user.get('iss')} {user.get('sub')}".encode()).hexdigest()[:32]
    return str(st.session_state.get("voter", ""))
