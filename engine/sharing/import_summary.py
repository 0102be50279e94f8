"""Describes the outcome of an import."""

from pathlib import Path

from engine.cache.merge import Merged


def import_lines(merged: Merged, file: Path) -> list[str]:
    """Lines that describe the outcome of an import."""
    cells = [f"{merged.cells:,} cells added"]
    cells += [f"{merged.replaced:,} replaced (failed before, or fewer frames)"] * bool(merged.replaced)
    cells += [f"{merged.equal:,} already there"] * bool(merged.equal)
    lines = [f"{file}: {', '.join(cells)}."]
    if merged.others:
        lines.append(
            f"{len(merged.others):,} cells differ in their pixels, since machines round differently; the existing "
            "ones were kept, with their scores."
        )
    names = {
        "timings": "timing rows",
        "scores": "scores",
        "environments": "environments",
        "models": "models",
        "votes": "votes",
    }
    more = [f"{merged.rows[table]:,} {name}" for table, name in names.items() if merged.rows.get(table)]
    lines += [f"Also new: {', '.join(more)}."] if more else []
    lines += [f"Study {said}." for said in merged.studies]
    lines += [
        f"{count:,} rows of '{table}' differ; the existing ones were kept." for table, count in merged.differing.items()
    ]
    return lines
