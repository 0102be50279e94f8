"""The claims one reads about schedulers, each with its verdict, as HTML; every text is escaped."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from dashboard import markup
from engine.analysis.claims import ClaimVerdict, TestResult, Word

# Verdict -> a mark that repeats it.
MARKS: dict[Word, str] = {"confirmed": "✓", "refuted": "✗", "undecided": "?", "not testable": "–"}


def summary(verdicts: Sequence[ClaimVerdict]) -> str:
    """E.g. "2 confirmed, 6 refuted, 2 undecided, 2 not testable"."""
    counts = Counter(verdict.word for verdict in verdicts)
    return ", ".join(f"{counts[word]} {word}" for word in MARKS if counts[word])


def claim_list(verdicts: Sequence[ClaimVerdict]) -> str:
    """Every claim that could be tested, with the figure behind its verdict."""
    items = "".join(
        f'<li><span class="word {verdict.word}"><span aria-hidden="true">{MARKS[verdict.word]}</span> '
        f"{verdict.word.capitalize()}</span><span>{escape(verdict.text)}"
        f'<span class="figure">{escape(_figure(verdict))}</span></span></li>'
        for verdict in verdicts
    )
    return f'<ul class="lab lab-claims">{items}</ul>'


def table_of_tests(verdicts: Sequence[ClaimVerdict]) -> str:
    """Every test of every claim: what was asked, what was found, and what it rests on."""
    rows = []
    for verdict in verdicts:
        results = verdict.tests or (TestResult(verdict.word, "", "", "", verdict.reason),)
        for place, result in enumerate(results):
            cells = (
                verdict.text if place == 0 else "",
                result.word,
                result.hypothesis,
                result.figure,
                result.n,
                result.reason,
            )
            rows.append("".join(f'<td class="text wrap">{escape(cell)}</td>' for cell in cells))
    columns = ["Claim", "Verdict", "Tested as", "Found [95 % interval]", "n", "Note"]
    return markup.table(columns, [f"<tr>{row}</tr>" for row in rows], text=set(columns))


def _figure(verdict: ClaimVerdict) -> str:
    """The figure that decided, or why there is none."""
    result = verdict.deciding
    if result is None:
        return verdict.reason
    if not result.figure:
        return result.reason
    more = f"; {len(verdict.tests)} tests in all" if len(verdict.tests) > 1 else ""
    return f"{result.quantity}: {result.figure}, {result.n}{more}"
