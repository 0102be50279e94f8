"""The report as one self-contained HTML file, readable without network and without scripts.

Scripts are allowed by digest only, so nothing injected into the page could run.
"""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from engine.display import html, tables, theme
from engine.display.formats import batch_of, count, cut, known, when
from engine.display.timing_charts import MARKS
from engine.display.use_cases import guard_table, use_case_table
from engine.sharing.report import report_charts as charts
from engine.sharing.report.contents import Report
from engine.sharing.report.film import film_table
from engine.sharing.study_file import study_toml

_HERE = Path(__file__).parent
_METHODS = (
    "All lanes generate the same pictures: same prompts, seeds, initial noise and guidance. Differences are paired, "
    "seeds are averaged within their prompt, and intervals come from a bootstrap over prompts (95 %).",
    "A lane is as good as the baseline only if every guard has shown it, at its level and however often one looks; "
    "only such a lane is recommended.",
    "Verdicts by one metric are for display: equivalent if the difference is within the margin by two one-sided t "
    "tests at 5 %, adjusted (Holm) for the number of lanes. Undecided does not mean equal. There is no verdict below "
    "five prompts, or below the metric's minimum number of pairs.",
    "Times are wall-clock times of whole calls, including text encoder and decoder. Lanes run one at a time, in a new "
    "order each round, after warm-up; the interval of the median is a bootstrap over repeats. Speed-up is the median "
    "of the baseline over that of the lane.",
    "Denoiser calls are counted, not derived from the number of steps.",
    "Costs are times multiplied by a price. They do not depend on the verdict on quality shown beside them.",
)
_DIRECTIONS = {"higher": "higher is better", "lower": "lower is better"}


def render(report: Report, *, with_charts: bool = True) -> str:
    """Renders the page; its size is bounded by using fewer and smaller pictures if there are many."""
    drawn = charts.charts(report) if with_charts else []
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    scripts = [charts.bundle(), script] if drawn else [script]
    style = f":root {{ --accent: {theme.ACCENT}; }}\n{(_HERE / 'report.css').read_text(encoding='utf-8')}"
    return html.document(
        "report.html",
        policy=_policy(scripts),
        style=html.trusted(style),
        scripts=[html.trusted(text) for text in scripts],
        specs=html.trusted(charts.specs_json(drawn)),
        charts={chart.key: html.Shot(charts.address(chart), chart.alt) for chart in drawn},
        **_head(report),
        **_pictures(report),
        **_times(report.results.times),
        **_quality(report),
        **_costs(report),
        **_methods(report),
    )


def _policy(scripts: list[str]) -> str:
    """Content-Security-Policy for a page with these scripts."""
    digests = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in scripts]
    rules = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",  # charts style their own marks
        "script-src": " ".join(f"'sha256-{digest}'" for digest in digests),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _head(report: Report) -> dict[str, Any]:
    return {
        "name": report.results.id,
        "description": str(report.results.spec.get("description") or "")[:1000],
        "headline": report.headline,
        "extent": _extent(report),
        "tuned": [f"{lane.label}: {cut(lane.conditions, 300)}." for lane in report.results.lanes if lane.conditions],
        "claims": [(verdict, tables.claim_figure(verdict)) for verdict in report.claims],
        "tests": tables.claim_table(report.claims),
        "made": when(report.made_at.replace(tzinfo=None)),
    }


def _extent(report: Report) -> str:
    results = report.results
    cells = results.cells
    done, failed = int((cells["status"] == "done").sum()), int((cells["status"] == "failed").sum())
    lanes, prompts, seeds = len(results.lane_table), len(results.prompts), len(results.seeds)
    parts = [
        f"{count(lanes, 'lane')} × {count(prompts, 'prompt')} × {count(seeds, 'seed')}",
        f"{done:,} cells done",
        f"{failed:,} failed" if failed else "",
        f"{results.awaited:,} not run" if results.awaited else "",
    ]
    if len(cells):
        first = cells.iloc[0]
        parts.append(f"{first['width']} × {first['height']} px, guidance {first['guidance_scale']:g}, {first['dtype']}")
    return ", ".join(filter(None, parts)) + "."


def _pictures(report: Report) -> dict[str, Any]:
    prompts, lanes = report.results.prompts, report.results.lane_table
    shown = [f"seed {report.seed}", "the same noise in each column"]
    if len(report.prompts) < len(prompts):
        shown.insert(0, f"{len(report.prompts)} of {len(prompts)} prompts")
    if len(report.shown_lanes) < len(lanes):
        shown.insert(0, f"{len(report.shown_lanes)} of {len(lanes)} lanes")
    return {
        "pictures": film_table(report) if report.prompts else None,
        "pictures_shown": f"{', '.join(shown).capitalize()}.",
        "kind": "clean-image estimate" if report.kind == "x0" else "noisy image",
    }


def _times(times: pd.DataFrame) -> dict[str, Any]:
    if times.empty:
        return {"times": None}
    first, least, most = times.iloc[0], int(times["n"].min()), int(times["n"].max())
    samples = f"n = {least}" if least == most else f"n = {least} to {most}"
    batch, device, last = batch_of(float(first["batch_size"])), first["device_name"], when(times["last_at"].max())
    return {
        "times": tables.time_table(times),
        "times_basis": f"{samples} per lane, {batch}, {device}, {last}.",
        "time_marks": MARKS,
        "stage_marks": tables.STAGE_MARKS,
    }


def _quality(report: Report) -> dict[str, Any]:
    results = report.results
    sets = results.sets
    names = {row.lane: (row.label, row.scheduler) for row in results.lane_table.itertuples()}
    return {
        "quality": [(label, facts, tables.quality_table(rows)) for label, facts, rows in _metrics(report)],
        "uses": use_case_table(results),
        "guards": guard_table(results),
        "terms": " ".join(results.terms.lines) if results.terms else "",
        "sets": tables.set_table(sets, names) if len(sets) else None,
    }


def _metrics(report: Report) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yields label, facts and rows of each metric, the deciding one first."""
    rows = report.results.standings.dropna(subset=["metric"])
    for metric in sorted(rows["metric"].unique(), key=lambda metric: metric != report.results.deciding):
        mine = rows[rows["metric"] == metric]
        first = mine.iloc[0]
        margin = f"margin ±{first['margin']:.3g} ({first['margin_from']})" if known(first["margin"]) else ""
        facts = (str(first["unit"]), _DIRECTIONS.get(str(first["direction"]), "neither direction is better"), margin)
        yield str(first["metric_label"]), ", ".join(filter(None, facts)), mine


def _costs(report: Report) -> dict[str, Any]:
    results, pricing, priced = report.results, report.pricing, report.priced
    if results.times.empty:
        return {"price_note": ""}
    note = (
        f"{report.price_note} {pricing.work.images_per_month:,.0f} images per month, "
        f"{100 * pricing.work.utilisation:.0f} % of the paid time busy. Saved: baseline minus lane; the range covers "
        "the intervals of both."
    )
    if pricing.seconds is not None:
        note += (
            f" The baseline is stated to take {pricing.seconds:g} s per image there; the other lanes are scaled by "
            "their measured ratio, which is an assumption."
        )
    return {
        "price_note": note,
        "costs": tables.cost_table(priced, results.decided, fleet=False) if len(priced) else None,
        "unpriced": f"The times were measured on {results.times['device_name'].iloc[0]}, and the times on the priced "
        "GPU are unknown. State the baseline's seconds per image there with --seconds.",
    }


def _methods(report: Report) -> dict[str, Any]:
    results = report.results
    metrics = []
    for row in results.metrics.to_dict("records"):
        reason = f" Not measured: {row['unavailable']}" if isinstance(row["unavailable"], str) else ""
        metrics.append((str(row["label"]), f"{row['description']}{reason}"))
    here = set(results.environments["environment_id"])
    timed = results.samples[~results.samples["environment_id"].isin(here)].drop_duplicates("environment_id")
    return {
        "methods": _METHODS,
        "metrics": metrics,
        "environments": tables.environment_table(results.environments, map(str, timed["device_name"])),
        "models": tables.model_table(results.models),
        "reference": results.reference_line,
        "study_file": study_toml({**report.results.spec, "name": report.results.id}),
    }
