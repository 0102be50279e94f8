"""The report as Markdown, short enough for a pull request, with n and interval of every figure."""

import re
from collections.abc import Sequence
from typing import Any

from engine.analysis.claims import ClaimVerdict
from engine.display.formats import (
    NONE,
    batch_of,
    duration,
    duration_range,
    known,
    number_range,
    ratio,
    ratio_range,
    signed,
    when,
    whole,
)
from engine.display.tables import Entry, FilledColumn, ResultTable, bold, claim_figure, lane_name, table_of
from engine.display.use_cases import guard_table, use_case_table
from engine.sharing.report.contents import Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&@!])")


def render_markdown(report: Report) -> str:
    """Renders the report as Markdown; texts from the cache are escaped, so that none becomes a link or mention."""
    results = report.results
    lines = [f"## {plain(results.id)}", "", f"**{plain(report.headline.sentence)}**", ""]
    lines += [
        f"- {plain(item.name)}: **{plain(item.value)}**. {plain(item.note)} {plain(item.small)}".rstrip()
        for item in report.headline.figures
    ]
    for sentence in report.headline.reservations:
        lines += ["", plain(sentence)]
    if report.claims:
        lines += ["", "### Verdicts on claims", ""]
        lines += _table(_claims(report.claims))
    if len(results.times):
        first = results.times.iloc[0]
        lines += ["", "### Time and quality of each lane", "", *_table(_lanes(report)), ""]
        device, moment = plain(str(first["device_name"])), when(results.times["last_at"].max())
        lines.append(
            f"Times: median of whole calls, {batch_of(float(first['batch_size']))}, on {device}, {moment}. "
            "Intervals: 95 %."
        )
    lines += ["", "### Which lane for which use", "", *_table(use_case_table(results))]
    if (guards := guard_table(results)).rows:
        lines += ["", *_table(guards)]
    lines += ["", *(f"- {plain(line)}" for line in (results.terms.lines if results.terms else ()))]
    lines += [f"- Computed on {plain(line)}." for line in results.environment_lines]
    lines += [f"- {plain(line)}" for line in [results.reference_line] if line]
    if results.awaited:
        lines.append(f"- {results.awaited:,} cells of the study have not run yet.")
    return "\n".join([*lines, ""])


def plain(text: str) -> str:
    """The text, escaped so that Markdown shows it literally."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _claims(verdicts: Sequence[ClaimVerdict]) -> ResultTable:
    columns: list[FilledColumn] = [
        ("Verdict", lambda verdict: verdict.word),
        ("Claim", lambda verdict: verdict.text),
        ("Decided by", claim_figure),
    ]
    return table_of("Verdicts on claims", verdicts, columns)


def _lanes(report: Report) -> ResultTable:
    every = report.results.standings
    rows = every[every["metric"].isna() | (every["metric"] == report.results.deciding)]
    if rows.empty:  # none of the metrics that may decide has values: the times alone
        rows = every.drop_duplicates("lane").assign(metric_label=None)
    label = next(iter(rows["metric_label"].dropna()), "")
    columns: list[FilledColumn] = [
        ("Lane", lambda row: lane_name(row.label, row.scheduler, is_baseline=bool(row.is_baseline))),
        ("Denoiser calls", lambda row: whole(row.nfe)),
        (
            "Median time",
            lambda row: bold(duration(row.median_ms), duration_range(row.low_ms, row.high_ms), f"n = {whole(row.n)}"),
        ),
        ("Speed-up", lambda row: bold(ratio(row.speedup), ratio_range(row.speedup_low, row.speedup_high))),
        *([(f"{label} minus baseline", _gap)] if label else []),
        ("By all guards", lambda row: str(row.decided)),
    ]
    return table_of("Lanes", rows.itertuples(), columns)


def _gap(row: Any) -> Entry:
    if row.is_baseline or not known(row.difference):
        return NONE
    return bold(signed(row.difference), number_range(row.low, row.high), f"{whole(row.prompts)} prompts")


def _table(shown: ResultTable) -> list[str]:
    """A table in Markdown; tags and lines below a figure follow in parentheses."""
    lines = [f"| {' | '.join(plain(column.name) for column in shown.columns)} |", f"|{' --- |' * len(shown.columns)}"]
    return lines + [f"| {' | '.join(plain(_words(cell)) for cell in row)} |" for row in shown.rows]


def _words(cell: Entry | None) -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    more = ", ".join(filter(None, (cell.tag, *cell.below)))
    return f"{cell.text} ({more})" if more else cell.text
