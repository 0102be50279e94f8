"""Legends and tables of the page on speed and quality, as HTML; every text from the cache is escaped."""

from collections.abc import Mapping
from html import escape

import pandas as pd

from dashboard import markup
from engine.display.formats import count, number, number_range, whole


def scheduler_legend(schedulers: Mapping[str, str]) -> str:
    """The marks of schedulers: key -> name."""
    items = "".join(f"<span>{markup.lane_name(name, key)}</span>" for key, name in schedulers.items())
    return f'<p class="lab lab-legend">{items}</p>'


def order_table(orders: pd.DataFrame) -> str:
    """Observed orders (`engine.analysis.convergence`), or why there is none."""
    rows = []
    for _, row in orders.iterrows():
        name = f'<th scope="row">{markup.lane_name(row["label"], row["scheduler"])}</th>'
        if row["reason"]:
            rows.append(f'<tr>{name}<td class="text wrap soft" colspan="4">{escape(str(row["reason"]))}</td></tr>')
            continue
        cells = (
            f"<b>{row['order']:.2f}</b>",
            number_range(row["low"], row["high"]),
            f"{whole(row['nfe_first'])} to {whole(row['nfe_last'])}",
            whole(row["n"]),
        )
        rows.append(f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return markup.table(["Scheduler", "Observed order", "95 % interval", "Denoiser calls", "n (prompts)"], rows)


def set_table(table: pd.DataFrame, lanes: Mapping[str, tuple[str, str]]) -> str:
    """Metrics of whole sets of pictures (`engine.cache.score_tables.lane_scores`); lanes: key -> (label, scheduler)."""
    rows = []
    for _, row in table.iterrows():
        label, scheduler = lanes.get(row["lane"], (str(row["lane"]), str(row["lane"]).partition(":")[0]))
        against = lanes.get(row["against"], (str(row["against"]), ""))[0]
        name = f"{row['label']} ({row['unit']})" if row["unit"] else str(row["label"])
        warning = row["warning"] if isinstance(row["warning"], str) else ""
        cells = (
            f'<td class="text">{escape(against)}</td>',
            f'<td class="text">{escape(name)}</td>',
            f"<td><b>{number(row['value'])}</b></td>",
            f"<td>{number_range(row['low'], row['high'])}</td>",
            f"<td>{whole(row['n'])} of {count(row['prompts'], 'prompt')}</td>",
            f'<td class="text wrap">{escape(warning)}</td>',
        )
        rows.append(f'<tr><th scope="row">{markup.lane_name(label, scheduler)}</th>{"".join(cells)}</tr>')
    columns = ["Lane", "Against", "Metric", "Value", "95 % interval", "n (pictures)", "Warning"]
    return markup.table(columns, rows, text={"Against", "Metric", "Warning"})
