"""The report as Markdown: short enough for a pull request, with every figure's n and interval."""

import re
from collections.abc import Sequence

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
from engine.sharing.report.contents import Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&@!])")


def render_markdown(report: Report) -> str:
    """The report in Markdown; texts of the cache are escaped, so that none becomes a link, a mention or markup."""
    summary = report.summary
    lines = [f"## {plain(summary.findings.study_id)}", "", f"**{plain(report.headline.sentence)}**", ""]
    lines += [
        f"- {plain(item.name)}: **{plain(item.value)}**. {plain(item.note)} {plain(item.small)}".rstrip()
        for item in report.headline.figures
    ]
    for sentence in report.headline.reservations:
        lines += ["", plain(sentence)]
    if report.claims:
        lines += ["", "### Verdicts on claims", ""]
        rows = [(verdict.word, verdict.text, _decided(verdict)) for verdict in report.claims]
        lines += _table(("Verdict", "Claim", "Decided by"), rows)
    if len(summary.times):
        first = summary.times.iloc[0]
        lines += ["", "### Time and quality of each lane", "", *_lanes(report), ""]
        device, moment = plain(str(first["device_name"])), when(summary.times["last_at"].max())
        lines.append(
            f"Times: median of whole calls, {batch_of(float(first['batch_size']))}, on {device}, {moment}. "
            "Intervals: 95 %."
        )
    lines += ["", *(f"- Computed on {plain(line)}." for line in summary.findings.environment_lines())]
    lines += [f"- {plain(line)}" for line in [summary.findings.reference_line()] if line]
    if summary.findings.missing:
        lines.append(f"- {summary.findings.missing:,} cells of the study have not run yet.")
    return "\n".join([*lines, ""])


def plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _decided(verdict: ClaimVerdict) -> str:
    found = verdict.deciding
    if found is None or not found.figure:
        return found.reason if found else verdict.reason
    return f"{found.quantity}: {found.figure}, {found.n}"


def _lanes(report: Report) -> list[str]:
    rows = report.summary.standings
    rows = rows[rows["metric"].isna() | (rows["metric"] == report.summary.deciding)]
    label = next(iter(rows["metric_label"].dropna()), "")
    found = []
    for _, row in rows.iterrows():
        base = row["is_baseline"]
        scored = known(row["difference"]) and not base
        time = f"{duration(row['median_ms'])} ({duration_range(row['low_ms'], row['high_ms'])}), n = {whole(row['n'])}"
        gap = f"{signed(row['difference'])} ({number_range(row['low'], row['high'])}), {whole(row['prompts'])} prompts"
        found.append(
            (
                row["label"] + (" (baseline)" if base else ""),
                whole(row["nfe"]),
                time,
                ratio(row["speedup"]) + ("" if base else f" ({ratio_range(row['speedup_low'], row['speedup_high'])})"),
                gap if scored else NONE,
                str(row["verdict"]),
            )
        )
    heads = ("Lane", "Denoiser calls", "Median time", "Speed-up", f"{label} minus baseline".strip(), "Verdict")
    return _table(heads, found)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(plain(head) for head in heads)} |", f"|{' --- |' * len(heads)}"]
    return lines + [f"| {' | '.join(plain(str(cell)) for cell in row)} |" for row in rows]
