"""What an import did, in words."""

from pathlib import Path

from engine.cache.merge import Merged


def import_lines(merged: Merged, file: Path) -> list[str]:
    """What an import did, for people."""
    cells = [f"{merged.cells:,} cells taken"]
    cells += [f"{merged.replaced:,} taken in place of failed ones, or of ones with fewer frames"] * bool(
        merged.replaced
    )
    cells += [f"{merged.equal:,} were here already"] * bool(merged.equal)
    lines = [f"{file}: {', '.join(cells)}."]
    if merged.others:
        lines.append(
            f"{len(merged.others):,} cells are on both sides with other pixels, as machines round "
            "differently: those here stay, and the scores measured on them."
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
        f"{count:,} rows of '{table}' are here with another content, which stays."
        for table, count in merged.differing.items()
    ]
    return lines
