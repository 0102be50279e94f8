"""The ballot: one pair at a time, each choice written at once. A fragment, so that a vote redraws nothing else."""

import re
import uuid
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import loaders
from dashboard.asking import Problem
from dashboard.options import Options
from dashboard.studies import StudyView
from dashboard.vote.loading import answered
from dashboard.vote.pairs import Pair, pairs
from engine.cache.votes import SCORED, cast
from engine.display import html
from engine.display.formats import count
from engine.errors import CacheError

LONGEST_SECONDS = 3600.0
_HERE = Path(__file__).parent
_ballot = st.components.v2.component(
    "lab_ballot",
    html='<div class="ballot"></div>',
    css=(_HERE / "ballot.css").read_text(encoding="utf-8"),
    js=(_HERE / "ballot.js").read_text(encoding="utf-8"),
)


def show(chosen: Options, study: StudyView, lane: str, other: str) -> None:
    """The ballot for two lanes."""

    @st.fragment
    def body() -> None:
        voter = _voter()
        if not voter:
            _ballot(key="ballot_voter", data={"key": ""}, on_voter_change=_remember)
            return
        place = f"voted {study.id} {voter}"
        if place not in st.session_state:
            st.session_state[place] = answered(chosen.cache, study.id, voter)
        voted: set[str] = st.session_state[place]
        every = pairs(study, lane, other, voter)
        left = [pair for pair in every if pair.key not in voted]
        _ask(chosen, study, voter, left, voted, len(every))

    body()


def _ask(chosen: Options, study: StudyView, voter: str, left: Sequence[Pair], voted: set[str], total: int) -> None:
    if st.session_state.pop("vote_lost", None):
        st.html(html.note("That vote could not be written", "The cache is in use. Please answer this pair again."))
    if not left:
        st.html(html.note("Thank you, that was all", f"You have answered all {count(total, 'pair')}."))
        return
    pair = left[0]
    found = loaders.pictures(chosen.cache, list(dict.fromkeys((pair.left_id, pair.right_id))), ["final"])
    if isinstance(found, Problem):
        st.html(html.note(found.title, found.detail))
        return
    sources = {picture.trajectory_id: picture for picture in found.value}
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
            "left": one.source,
            "right": two.source,
            "small": one.width < html.SMALL_PIXELS,
        },
        on_choice_change=answer,
    )


def _take(chosen: Options, study: StudyView, voter: str, pair: Pair, given: Any) -> bool:
    """Writes a choice, if it is one and belongs to the pair that was shown; whether the pair is answered."""
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
    """The voter's made-up name: of who is signed in, else of the browser; empty until the browser has told it."""
    user = dict(st.user)
    if user.get("is_logged_in"):
        return sha256(f"{user.get('iss')} {user.get('sub')}".encode()).hexdigest()[:32]
    return str(st.session_state.get("voter", ""))
