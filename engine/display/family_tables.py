"""The tables of model families that the README shows: `python -m engine.display.family_tables` writes them anew."""

from collections.abc import Iterable, Iterator

from engine.paths import ROOT
from engine.study.families import FAMILIES, Family
from engine.study.lanes import fitting
from engine.study.schedulers import SCHEDULERS, Scheduler

README = ROOT / "README.md"
BEGIN = "<!-- model families: written by `make tables` -->\n"
END = "<!-- end of model families -->\n"

_GUIDANCE = {
    "batched": "in one call, twice the rows",
    "prompt_first": "in one call, twice the rows",
    "two_calls": "in two calls",
    "embedded": "an input of the denoiser",
    "unknown": "",
}
_STARTS = {
    "Img2Img": "img2img",
    "Inpaint": "inpainting",
    "ControlNet": "ControlNet",
    "Edit": "edit",
    "ImageToVideo": "a picture",
}
EDM = "EDM models (Playground v2.5)"


def family_rows() -> Iterator[tuple[str, ...]]:
    """Every family and what its entry says of it, a heading first."""
    yield "family", "own size", "frames", "guidance", "starts from", "schedulers"
    for family in _with_files():
        yield (
            family.label,
            "{} x {}".format(*family.size) if family.size else "by its files",
            str(family.frames) if family.frames > 1 else "",
            _GUIDANCE[family.style] + (f" (`{family.guidance}`)" if family.guidance != "guidance_scale" else ""),
            ", ".join(_starts(family)),
            str(len(_keys(family))),
        )


def scheduler_rows() -> Iterator[tuple[str, ...]]:
    """Every scheduler, and which families it solves, a heading first; families that take the same share a column.

    Entries that differ from others in their noise levels alone are left out.
    """
    alike: dict[tuple[str, ...], list[Family]] = {}
    for family in _with_files():
        alike.setdefault(_keys(family), []).append(family)
    yield "", *(", ".join(family.label for family in families) for families in alike.values()), EDM
    for entry in (each for each in SCHEDULERS.values() if not each.levels):
        told = [_word(entry, families[0]) for families in alike.values()]
        yield f"`{entry.key}`", *told, "yes" if "edm" in entry.solves else ""


def section() -> str:
    """Both tables as Markdown."""
    tables = (("The families", family_rows()), ("Which scheduler solves which family", scheduler_rows()))
    folded = [f"<details><summary>{title}</summary>\n\n{_markdown(rows)}\n</details>\n" for title, rows in tables]
    return "\n".join(folded)


def with_tables(text: str) -> str:
    """A text with the section between its marks written anew.

    Raises:
        ValueError: It lacks the marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text lacks the line {BEGIN if not begin else END!r}")
    return f"{before}{begin}{section()}{end}{after}"


def _with_files() -> list[Family]:
    return [family for family in FAMILIES.values() if not family.builder]


def _keys(family: Family) -> tuple[str, ...]:
    return tuple(entry.key for entry in fitting(family.kind, family))


def _word(entry: Scheduler, family: Family) -> str:
    if entry.distilled and family.kind in entry.solves and not family.solvers:
        return "distilled weights"
    return "yes" if entry.key in _keys(family) else ""


def _starts(family: Family) -> Iterator[str]:
    yield "text" if "prompt" in family.inputs else "a picture"
    yield from (word for part, word in _STARTS.items() if any(part in name for name in family.pipelines))


def _markdown(rows: Iterable[tuple[str, ...]]) -> str:
    heading, *others = rows
    lines = [heading, ("---",) * len(heading), *others]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
