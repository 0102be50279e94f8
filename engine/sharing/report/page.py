"""The report as one HTML file: no network, no style or script from elsewhere, readable with scripts off.

Scripts are allowed by their digests alone, so that nothing that slipped into the page could run.
"""

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from pathlib import Path

from engine.display import theme
from engine.display.formats import batch_of, count, when
from engine.sharing.report import charts, tables
from engine.sharing.report.film import film_grid
from engine.sharing.report.material import Report
from engine.sharing.study_file import study_toml

_HERE = Path(__file__).parent
_METHODS = (
    "Every lane makes the same pictures: same prompts, seeds, starting noise and guidance. Differences are paired, "
    "seeds are averaged within their prompt, and intervals resample prompts (95 %, bootstrap).",
    "Equivalent: the difference lies within the margin by two one-sided tests at 5 %, adjusted (Holm) for the number "
    "of lanes. Better, worse: the difference is not zero, by a t test adjusted likewise. Undecided is not equal. Below "
    "five prompts, or the metric's own smallest number of pairs, there is no verdict.",
    "Times are wall times of whole calls, text encoder and decoder included, each lane by itself, in a new order every "
    "round, warm-up dropped; the interval of the median is a bootstrap over repeats. Speed-up: median of the baseline "
    "over that of the lane.",
    "Denoiser calls are counted, never taken from the number of steps.",
    "Costs are times multiplied by a price. Whether the pictures are as good is not part of them.",
)


def render(report: Report) -> str:
    """The page. Its size is bounded: pictures are made smaller and fewer where there are many."""
    drawn = charts.charts(report)
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    scripts = [charts.bundle(), script] if drawn else [script]
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",  # charts style their own marks
            f"script-src {' '.join(_digest(text) for text in scripts)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    style = f":root {{ --accent: {theme.ACCENT}; }}\n{(_HERE / 'report.css').read_text(encoding='utf-8')}"
    title = f"{report.results.id}: what the schedulers buy"
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="referrer" content="no-referrer">\n',
            f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n",
            f"{_header(report)}<main>\n{''.join(_sections(report, drawn))}</main>\n{_footer(report)}",
            f'<script type="application/json" id="charts">{charts.specs_json(drawn)}</script>\n',
            *(f"<script>{text}</script>\n" for text in scripts),
            "</body>\n</html>\n",
        ]
    )


def _digest(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _header(report: Report) -> str:
    description = str(report.results.spec.get("description") or "")
    said = f'<p class="soft">{escape(description[:1000])}</p>' if description else ""
    headline = report.headline
    cards = "".join(
        f"<div><h2>{escape(item.name)}</h2><p class=value>{escape(item.value)}</p><p>{escape(item.note)}</p>"
        f'<p class="soft">{escape(item.small)}</p></div>'
        for item in headline.figures
    )
    reservations = "".join(f'<p class="soft">{escape(sentence)}</p>' for sentence in headline.reservations)
    return (
        f"<header><h1>{escape(report.results.id)}</h1>{said}"
        f'<p class="lead">{escape(headline.sentence)}</p><div class="cards">{cards}</div>'
        f'{reservations}<p class="soft">{escape(_extent(report))}</p></header>\n'
    )


def _extent(report: Report) -> str:
    results = report.results
    cells = results.cells
    done, failed = int((cells["status"] == "done").sum()), int((cells["status"] == "failed").sum())
    parts = [
        " × ".join(
            [
                count(len(results.lane_table), "lane"),
                count(len(results.prompts), "prompt"),
                count(len(results.seeds), "seed"),
            ]
        ),
        f"{done:,} cells done",
        f"{failed:,} failed" if failed else "",
        f"{results.missing:,} not run" if results.missing else "",
    ]
    if len(cells):
        first = cells.iloc[0]
        parts.append(f"{first['width']} × {first['height']} px, guidance {first['guidance_scale']:g}, {first['dtype']}")
    return ", ".join(filter(None, parts)) + "."


def _sections(report: Report, drawn: list[charts.Picture]) -> Iterator[str]:
    yield from _verdicts(report)
    yield from _pictures(report)
    yield from _speed(report, drawn)
    yield from _quality(report, drawn)
    yield from _costs(report, drawn)
    yield _section("Methods", f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in _METHODS)}</ul>{_metrics(report)}")
    if report.claims:
        yield _section("Every test of the claims", tables.test_table(report.claims))
    results = report.results
    places = tables.environment_table(report) + tables.model_table(results.models)
    line = results.reference_line
    yield _section("Where it was measured", places + (f'<p class="soft">{escape(line)}</p>' if line else ""))
    yield _section("Run it again", _reproduce(report))


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inner}</section>\n"


def _verdicts(report: Report) -> Iterator[str]:
    if report.claims:
        note = '<p class="soft">Claims one reads about schedulers, put to the test with this study.</p>'
        yield _section("Verdicts on claims", note + tables.claim_table(report.claims))


def _pictures(report: Report) -> Iterator[str]:
    if not report.prompts:
        return
    kind = "clean-image estimate" if report.kind == "x0" else "noisy image"
    prompts, lanes = report.results.prompts, report.results.lane_table
    shown = [f"seed {report.seed}", "every column from the same noise"]
    if len(report.prompts) < len(prompts):
        shown.insert(0, f"{len(report.prompts)} of {len(prompts)} prompts")
    if len(report.shown_lanes) < len(lanes):
        shown.insert(0, f"{len(report.shown_lanes)} of {len(lanes)} lanes")
    scrubber = (
        '<div id="scrubber" hidden><button type="button" id="play">Play</button>'
        f'<label for="moment">How the pictures form ({kind})</label>'
        '<input type="range" id="moment" min="0" max="100" value="100" step="1">'
        '<output id="told" for="moment">final pictures</output></div>'
    )
    yield _section(
        "Pictures", f'<p class="soft">{escape(", ".join(shown).capitalize())}.</p>{scrubber}{film_grid(report)}'
    )


def _speed(report: Report, drawn: list[charts.Picture]) -> Iterator[str]:
    times = report.results.times
    if times.empty:
        yield _section("Time per lane", "<p>Nothing has been timed.</p>")
        return
    first = times.iloc[0]
    stages = " ".join(
        f'<span><span class="mark" style="color:{colour}" aria-hidden="true">■</span> {stage}</span>'
        for stage, colour in theme.STAGE_COLOURS.items()
    )
    least, most = int(times["n"].min()), int(times["n"].max())
    foot = (
        f"n = {least if least == most else f'{least} to {most}'} per lane, {batch_of(float(first['batch_size']))}, "
        f"{first['device_name']}, {when(times['last_at'].max())}."
    )
    yield _section(
        "Time per lane",
        (
            '<div class="two"><div><p class="legend">Mark: median. Thick bar: 95 % interval. Dashed: baseline.</p>'
            f'{_chart(drawn, "time")}</div><div><p class="legend">{stages}</p>{_chart(drawn, "stages")}</div></div>'
            f'{tables.time_table(times)}<p class="soft">{escape(foot)}</p>'
        ),
    )


def _quality(report: Report, drawn: list[charts.Picture]) -> Iterator[str]:
    rows = report.results.standings.dropna(subset=["metric"])
    if rows.empty:
        yield _section("Quality", "<p>The images have not been scored.</p>")
        return
    chart = _chart(drawn, "trade")
    legend = "Filled: as good as the baseline. Band: differences that count as the same. Better is up." if chart else ""
    parts = [f'<p class="legend">{legend}</p>{chart}' if chart else ""]
    order = sorted(rows["metric"].unique(), key=lambda metric: metric != report.results.deciding)
    for metric in order:
        mine = rows[rows["metric"] == metric]
        first = mine.iloc[0]
        facts = [
            str(first["unit"]),
            {"higher": "higher is better", "lower": "lower is better"}.get(
                str(first["direction"]), "neither side is better"
            ),
        ]
        if first["margin"] == first["margin"]:
            facts.append(f"margin ±{first['margin']:.3g} ({first['margin_from']})")
        told = f'<p class="soft">{escape(", ".join(filter(None, facts)))}</p>'
        parts += [f"<h3>{escape(str(first['metric_label']))}</h3>{told}", tables.quality_table(mine)]
    sets = report.results.sets
    if len(sets):
        parts.append(f"<h3>Whole sets of pictures</h3>{tables.set_table(sets, report)}")
    yield _section("Quality against the baseline", "".join(parts))


def _costs(report: Report, drawn: list[charts.Picture]) -> Iterator[str]:
    if report.results.times.empty:
        return
    work, priced = report.pricing.work, report.priced
    note = (
        f"{report.price_note} {work.images_per_month:,.0f} images a month, {100 * work.utilisation:.0f} % of the "
        "paid time busy. Saved: baseline less lane, its range over the intervals of both."
    )
    if report.pricing.seconds is not None:
        note += (
            f" The baseline takes {report.pricing.seconds:g} s per image there, as stated; other lanes by their "
            "measured ratio, which is an assumption."
        )
    if priced.empty:
        gap = (
            f"The times were measured on {report.results.times['device_name'].iloc[0]}; what they would be on the "
            "GPU of this price is not known. State the baseline's seconds per image there (--seconds)."
        )
        yield _section("Cost", f'<p class="soft">{escape(note)}</p><p>{escape(gap)}</p>')
        return
    yield _section("Cost", f'<p class="soft">{escape(note)}</p>{_chart(drawn, "cost")}{tables.cost_table(priced)}')


def _chart(drawn: list[charts.Picture], key: str) -> str:
    return "".join(charts.figure(picture) for picture in drawn if picture.key == key)


def _metrics(report: Report) -> str:
    items = []
    for row in report.results.metrics.to_dict("records"):
        reason = f" Not measured: {row['unavailable']}" if isinstance(row["unavailable"], str) else ""
        items.append(f"<dt>{escape(str(row['label']))}</dt><dd>{escape(str(row['description']) + reason)}</dd>")
    return f"<h3>Metrics</h3><dl>{''.join(items)}</dl>" if items else ""


def _reproduce(report: Report) -> str:
    name = escape(str(report.results.id))
    return (
        f"<p>Save this as <code>{name}.toml</code>, then run "
        f"<code>python -m engine run {name}.toml</code> and <code>python -m engine report {name} -o report.html</code>."
        f'</p><pre tabindex="0" role="region" aria-label="Study file">{escape(study_toml(report.results.spec))}</pre>'
    )


def _footer(report: Report) -> str:
    made = when(report.made_at.replace(tzinfo=None))
    return (
        f'<footer><p class="soft">Made {made} by <code>python -m engine report</code>; needs no network.</p></footer>\n'
    )
