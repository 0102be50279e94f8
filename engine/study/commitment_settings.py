"""The `[commitment]` table: at which points of a run the prompt is swapped. Imports no torch."""

from dataclasses import dataclass

from engine.study.reading import Table

DEFAULT_AT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MAX_PAIRS = 100


@dataclass(frozen=True)
class CommitmentSettings:
    """Pairs of prompts, and when the second replaces the first, for every lane and seed of a study.

    Attributes:
        pairs: (first, second) prompts.
        at: Shares of the denoiser calls that use the first prompt, between 0 and 1. Each prompt alone is always run
            as well, to know what following it looks like.
    """

    pairs: tuple[tuple[str, str], ...]
    at: tuple[float, ...] = DEFAULT_AT

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt once."""
        return tuple(dict.fromkeys(prompt for pair in self.pairs for prompt in pair))

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares at which the prompt changes, 0 and 1 included, ascending."""
        return tuple(sorted({0.0, *self.at, 1.0}))


def read_commitment(table: Table, *, given: bool) -> CommitmentSettings | None:
    """Reads `[commitment]`; None if the study has no such table.

    Raises:
        StudyError: A pair is malformed, repeats a prompt or is listed twice; or a share is out of bounds.
    """
    if not given:
        return None
    pairs = tuple(_pair(table, entry) for entry in _listed(table, "prompts", []))
    if not 1 <= len(pairs) <= MAX_PAIRS:
        raise table.error("prompts", f'must list 1 to {MAX_PAIRS} pairs, e.g. prompts = [["owl", "rocket"]]')
    if len(set(pairs)) < len(pairs):
        raise table.error("prompts", "lists a pair twice; remove one")
    at = _listed(table, "at", list(DEFAULT_AT))
    shares = []
    for share in at:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise table.error("at", f"must list shares of the run between 0 and 1, not {share!r}")
        shares.append(float(share))
    if not shares or len(set(shares)) < len(shares):
        raise table.error("at", "must list at least one share of the run, and none twice")
    table.finish()
    return CommitmentSettings(pairs, tuple(sorted(shares)))


def _listed(table: Table, key: str, default: list[object]) -> list[object]:
    value = table.value(key, default)
    if not isinstance(value, list | tuple):
        raise table.error(key, f"must be a list, not {value!r}")
    return list(value)


def _pair(table: Table, entry: object) -> tuple[str, str]:
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not all(isinstance(text, str) for text in entry):
        raise table.error("prompts", f'must list pairs of texts, e.g. [["owl", "rocket"]], not {entry!r}')
    first, second = entry
    if first == second:
        raise table.error("prompts", f"swaps {first!r} for itself; give two different prompts")
    return first, second
