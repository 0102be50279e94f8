"""The tables of a report as HTML. Every text that comes from a cache is escaped here."""

import json
from collections.abc import Collection, Iterable, Sequence
from html import escape

import pandas as pd

from engine.analysis.claims import ClaimVerdict, Word
from engine.display import theme
from engine.display.formats import (
    NONE,
    count,
    duration,
    duration_range,
    known,
    money,
    money_range,
    number,
    number_range,
    percent,
    percent_range,
    ratio,
    ratio_range,
    signed,
    whole,
)
from engine.sharing.report.material import Report

# Verdict -> a mark that repeats it.
MARKS: dict[Word, str] = {"confirmed": "✓", "refuted": "✗", "undecided": "?", "not testable": "–"}


def table(name: str, columns: Sequence[str], rows: Iterable[str], text: Collection[str] = ()) -> str:
    """A table that scrolls by itself where the page is narrow; columns named in `text` are set to the left."""
    head = "".join(f'<th scope="col"{" class=text" if one in text else ""}>{escape(one)}</th>' for one in columns)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def claim_table(verdicts: Sequence[ClaimVerdict]) -> str:
    """Every claim with its verdict and the figure that decided it, or why there is none."""
    rows = []
    for verdict in verdicts:
        found = verdict.deciding
        figure = f"{found.quantity}: {found.figure}, {found.n}" if found and found.figure else ""
        reason = (found.reason if found else verdict.reason) if not figure else ""
        rows.append(
            f'<tr><td class="text">{_word(verdict.word)}</td>'
            f'<th scope="row" class="text wrap">{escape(verdict.text)}</th>'
            f'<td class="text wrap">{escape(figure or reason)}</td></tr>'
        )
    columns = ["Verdict", "Claim", "Decided by: figure [95 % interval], n"]
    return table("Verdicts on claims", columns, rows, text=set(columns))


def test_table(verdicts: Sequence[ClaimVerdict]) -> str:
    """Every test of every claim: what was asked, what was found, and what it rests on."""
    rows = []
    for verdict in verdicts:
        for place, result in enumerate(verdict.tests):
            claim = f'<th scope="row" class="text wrap" rowspan="{len(verdict.tests)}">{escape(verdict.text)}</th>'
            rows.append(
                f'<tr>{claim if place == 0 else ""}<td class="text">{_word(result.word)}</td>'
                f'<td class="text wrap">{escape(result.hypothesis)}</td>'
                f'<td class="text wrap">{escape(result.figure) or NONE}</td>'
                f'<td class="text">{escape(result.n) or NONE}</td>'
                f'<td class="text wrap">{escape(result.reason)}</td></tr>'
            )
    columns = ["Claim", "Verdict", "Tested as", "Found [95 % interval]", "n", "Note"]
    return table("Tests of the claims", columns, rows, text=set(columns))


def _word(word: Word) -> str:
    return f'<b class="{word.replace(" ", "-")}"><span aria-hidden="true">{MARKS[word]}</span> {word.capitalize()}</b>'


def time_table(times: pd.DataFrame) -> str:
    """Timing summaries, one row a lane."""
    rows = [
        _row(
            row,
            [
                whole(row["steps"]),
                whole(row["nfe"]),
                f"<b>{duration(row['median_ms'])}</b>",
                duration_range(row["low_ms"], row["high_ms"]),
                whole(row["n"]),
                f"<b>{ratio(row['speedup'])}</b>",
                ratio_range(row["speedup_low"], row["speedup_high"]),
                escape(str(row["settled"])),
            ],
        )
        for _, row in times.iterrows()
    ]
    columns = [
        "Lane",
        "Steps",
        "Denoiser calls",
        "Median time",
        "95 % interval",
        "n",
        "Speed-up",
        "95 % interval",
        "Samples",
    ]
    return table("Times", columns, rows)


def quality_table(rows_of_metric: pd.DataFrame) -> str:
    """How each lane compares with the baseline by one metric (`standings`)."""
    rows = []
    for _, row in rows_of_metric.iterrows():
        base = row["is_baseline"]
        extent = f"{whole(row['prompts'])} / {whole(row['pairs'])}" if known(row["prompts"]) else NONE
        rows.append(
            _row(
                row,
                [
                    f"<b>{number(row['mean'])}</b>",
                    NONE if base else signed(row["difference"]),
                    NONE if base else number_range(row["low"], row["high"]),
                    extent,
                    escape(str(row["verdict"])),
                ],
            )
        )
    first = rows_of_metric.iloc[0]
    columns = ["Lane", "Mean", "Minus baseline", "95 % interval", "n (prompts / pairs)", "Verdict"]
    return table(f"Quality by {first['metric_label']}", columns, rows)


def set_table(sets: pd.DataFrame, report: Report) -> str:
    """Metrics of whole sets of pictures, with the warnings they carry."""
    rows = []
    for _, row in sets.iterrows():
        warning = row["warning"] if isinstance(row["warning"], str) else ""
        rows.append(
            f'<tr><th scope="row">{escape(report.results.lane_label(str(row["lane"])))}</th>'
            f'<td class="text">{escape(report.results.lane_label(str(row["against"])))}</td>'
            f'<td class="text">{escape(str(row["label"]))}</td><td><b>{number(row["value"])}</b></td>'
            f"<td>{number_range(row['low'], row['high'])}</td><td>{whole(row['n'])}</td>"
            f'<td class="text wrap">{escape(warning)}</td></tr>'
        )
    columns = ["Lane", "Against", "Metric", "Value", "95 % interval", "n (pictures)", "Warning"]
    return table("Metrics of whole sets", columns, rows, text={"Against", "Metric", "Warning"})


def cost_table(priced: pd.DataFrame) -> str:
    """Costs and savings (`price_lanes`), one row a lane."""
    rows = []
    for _, row in priced.iterrows():
        base = row["is_baseline"]
        rows.append(
            _row(
                row,
                [
                    f"{row['seconds']:.3g}" if known(row["seconds"]) else NONE,
                    money(row["usd_1k"]),
                    f"<b>{money(row['usd_month'])}</b>",
                    money_range(row["usd_month_low"], row["usd_month_high"]),
                    NONE if base else f"<b>{money(row['saving_usd'])}</b>",
                    NONE if base else money_range(row["saving_usd_low"], row["saving_usd_high"]),
                    NONE if base else percent(row["saving_share"]),
                    NONE if base else percent_range(row["saving_share_low"], row["saving_share_high"]),
                    whole(row["gpus"]),
                ],
            )
        )
    columns = [
        "Lane",
        "Seconds per image",
        "1,000 images",
        "A month",
        "Range",
        "Saved a month",
        "Range",
        "Saved",
        "Range",
        "Whole machines",
    ]
    return table("Cost", columns, rows)


def environment_table(report: Report) -> str:
    """Where cells were computed and lanes timed, and with which versions."""
    results, rows = report.results, []
    for _, row in results.environments.iterrows():
        details = _details(row["details"])
        cells = (row["device"], row["device_name"], row["torch"], row["diffusers"], row["memory"], details)
        texts = "".join(f'<td class="text wrap">{escape(str(cell))}</td>' for cell in cells)
        rows.append(f'<tr><th scope="row">{count(int(row["cells"]), "cell")}</th>{texts}</tr>')
    known_here = set(results.environments["environment_id"])
    if len(results.samples):
        for key, name in results.samples.groupby("environment_id")["device_name"].first().items():
            if key not in known_here:
                rest = f'<td class="text" colspan="6">{escape(str(name))}</td>'
                rows.append(f'<tr><th scope="row">times only</th>{rest}</tr>')
    columns = ["What", "Device", "Name", "torch", "diffusers", "Memory", "Further"]
    return table("Environments", columns, rows, text=set(columns[1:]))


def model_table(models: pd.DataFrame) -> str:
    """The models of the study's cells."""
    rows = [
        f'<tr><th scope="row">{escape(str(row["source"]))}</th><td class="text">{escape(str(row["family"]))}</td>'
        f'<td>{whole(row["parameters"])}</td><td class="text wrap"><code>{escape(str(row["fingerprint"]))}</code></td>'
        "</tr>"
        for _, row in models.iterrows()
    ]
    columns = ["Model", "Pipeline", "Parameters", "SHA-256 of its files"]
    return table("Models", columns, rows, text={"Pipeline", "SHA-256 of its files"})


def _row(row: pd.Series, cells: Sequence[str]) -> str:
    look = theme.look(str(row["scheduler"]))
    tag = ' <span class="tag">baseline</span>' if row["is_baseline"] else ""
    mark = f'<span class="mark" style="color:{look.colour}" aria-hidden="true">{look.glyph}</span> '
    texts = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{mark}{escape(str(row["label"]))}{tag}</th>{texts}</tr>'


def _details(text: object) -> str:
    try:
        found = json.loads(str(text))
    except ValueError:
        return ""
    if not isinstance(found, dict):
        return ""
    return ", ".join(f"{key} {value}" for key, value in found.items() if value not in ("", None))
