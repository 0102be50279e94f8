"""Keeps in the cache what the lint says of a study's lanes, so that pages without torch can show it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.cache import lint_tables
from engine.cache.connection import reading
from engine.cache.lint_tables import LintRow, write_lints
from engine.sampling.lint import LINT_VERSION, Lint, lint_lane
from engine.study.cells import Cell
from engine.study.source import ModelSource


def store_lints(cache: Path, cells: Sequence[Cell], source: ModelSource, config: Mapping[str, Any]) -> int:
    """Looks at those lanes of the cells that the cache knows nothing of by this version, and writes what is found.

    Args:
        cache: A cache that is there.
        cells: Cells of a study.
        source: Their model.
        config: The scheduler configuration that came with it.

    Returns:
        How many lanes were looked at.

    Raises:
        CacheError: The cache cannot be used.
    """
    lanes = {cell.config_id: cell.lane for cell in cells}
    with reading(cache) as db:
        known = lint_tables.linted(db, source.model_id, lanes, LINT_VERSION)
    new = {key: lint_lane(lane, config, source.pipeline) for key, lane in lanes.items() if key not in known}
    rows = [lint_row(found, key, source) for key, found in new.items()]
    write_lints(cache, rows)
    return len(rows)


def lint_row(lint: Lint, config_id: str, source: ModelSource) -> LintRow:
    """A lint as it is stored."""
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
