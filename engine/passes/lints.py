"""Stores lints of a study's lanes in the cache, so that pages without torch can show them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.cache import lint_tables
from engine.cache.connection import reading
from engine.cache.lint_tables import LintRow, write_lints
from engine.passes.foresight import NOTHING, Foresight
from engine.sampling.lint import LINT_VERSION, Lint, lint_lane
from engine.study.cells import Cell
from engine.study.source import ModelSource


def store_lints(
    cache: Path,
    cells: Sequence[Cell],
    source: ModelSource,
    config: Mapping[str, Any],
    ahead: Foresight = NOTHING,
    patience: float | None = None,
) -> int:
    """Lints the lanes that the cache has no lint of, by this version, and writes the findings.

    Args:
        cache: An existing cache.
        cells: Cells of a study.
        source: Their model.
        config: The model's own scheduler configuration.
        ahead: Results of dry runs; new ones are written too.
        patience: Seconds to wait while others hold the cache.

    Returns:
        The number of lanes checked.

    Raises:
        CacheError: The cache cannot be used.
    """
    lanes = {cell.config_id: cell.lane for cell in cells}
    with reading(cache) as db:
        known = lint_tables.linted(db, source.model_id, lanes, LINT_VERSION) - ahead.fresh
    rows = []
    for key, lane in lanes.items():
        if key not in known:
            tried = ahead.tried.get(key)
            lint = lint_lane(lane, config, source.pipeline, tried.handed if tried else None)
            rows.append(replace(lint_row(lint, key, source), dry_run=tried.plain() if tried else None))
    write_lints(cache, rows, patience)
    return len(rows)


def lint_row(lint: Lint, config_id: str, source: ModelSource) -> LintRow:
    """A lint as a row of the cache."""
    found = lint.probe
    columns = () if found is None else (found.timesteps, found.sigmas, found.told, found.log_snr)
    return LintRow(
        model_id=source.model_id,
        config_id=config_id,
        lint_version=LINT_VERSION,
        calls=None if found is None else len(found.timesteps),
        final_sigma=None if found is None else found.final_sigma,
        levels=tuple(zip(*columns, strict=True)),
        settings=tuple((setting.name, setting.value, setting.origin, setting.replaced) for setting in lint.settings),
        findings=tuple((finding.severity, finding.code, finding.message) for finding in lint.findings),
    )
