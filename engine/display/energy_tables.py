"""Energy of lanes, as a table."""

import pandas as pd

from engine.analysis.energy_use import usd_per_1000_by_energy
from engine.display.formats import money, number, number_range, whole
from engine.display.tables import FilledColumn, ResultTable, bold, table_of


def energy_table(watt_hours: pd.DataFrame, usd_per_kwh: float | None) -> ResultTable:
    """Watt hours for 1,000 images (`EnergyUse.watt_hours`), and dollars if electricity has a price."""
    columns: list[FilledColumn] = [
        ("Lane", lambda row: row.label),
        ("Wh per 1,000", lambda row: bold(number(row.wh_1k), number_range(row.wh_1k_low, row.wh_1k_high))),
        ("n", lambda row: whole(row.n)),
    ]
    if usd_per_kwh is not None:
        columns.insert(2, ("Electricity per 1,000", lambda row: money(usd_per_1000_by_energy(row.wh_1k, usd_per_kwh))))
    return table_of("Energy", watt_hours.itertuples(), columns)
