"""The prompts that a decision draws from: the study's pool file, the pool for the model, or the study's prompts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import StudyError
from engine.paths import DATA
from engine.study.source import ModelSource
from engine.study.study import Study

BUNDLED_POOL = DATA / "prompts" / "bundled_396.txt"
GENERAL_POOL = DATA / "prompts" / "general_500.txt"


def pool_prompts(study: Study, source: ModelSource) -> tuple[str, ...]:
    """The pool of a study, without duplicates.

    Raises:
        StudyError: The file is missing, not UTF-8 text, or has no prompts.
    """
    if study.decide.pool is not None:
        return read_prompts(Path(study.decide.pool))
    if source.name == "bundled":
        return read_prompts(BUNDLED_POOL)
    return study.prompts if source.family.builder else read_prompts(GENERAL_POOL)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file, one per line, without duplicates; lines that start with # are comments.

    Args:
        path: Absolute, or relative to the working folder or `data/`.

    Raises:
        StudyError: The file is missing, not UTF-8 text, or has no prompts.
    """
    return tuple(prompt_classes(path))


def prompt_classes(path: Path) -> dict[str, str]:
    """The class of each prompt of a file: the comment above it that follows an empty line; "" if there is none.

    Raises:
        StudyError: As `read_prompts`.
    """
    found = next((file for file in (path, DATA / path) if file.is_file()), None)
    if found is None:
        raise StudyError(f"[decide] pool: there is no file {path}, nor {DATA / path}.")
    try:
        lines = [line.strip() for line in found.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"[decide] pool: {found} cannot be read as UTF-8 text: {error}.") from error
    classes: dict[str, str] = {}
    heading = ""
    for above, line in zip(("#", *lines), lines, strict=False):
        if line.startswith("#"):
            heading = heading if above else line.strip("# ")
        elif line:
            classes.setdefault(line, heading)
    if not classes:
        raise StudyError(f"[decide] pool: {found} has no prompts.")
    return classes


def prompt_order(prompts: Sequence[str], seed: int, stored: Sequence[str] = ()) -> list[str]:
    """The order in which prompts are used: the stored one, with new prompts behind it, shuffled among themselves."""
    seen = set(stored)
    fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in seen]
    shuffled = np.random.default_rng([seed, len(stored)]).permutation(len(fresh))
    return [*stored, *(fresh[place] for place in shuffled)]
