"""Which prompts the bundled model can draw: those that name something in its vocabulary. Imports no torch."""

import functools
import re
from collections.abc import Sequence

from engine.study.source import BUNDLED, EXAMPLE_HUB_ID

SHOWN, LETTERS = 3, 60


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """The things the bundled model has learnt, from its vocabulary.txt; empty if the file is missing."""
    try:
        lines = (BUNDLED / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    return tuple(line.strip().lower() for line in lines if line.strip())


def out_of_vocabulary(model: str, prompts: Sequence[str]) -> list[str]:
    """The prompts, except empty ones, that name nothing the bundled model knows; none for other models.

    Only whole words count: the model has seen "cherry blossom" but not "cherry blossoms".
    """
    if model != "bundled" or not vocabulary():
        return []
    known = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, vocabulary())) + r")(?!\w)")
    return [prompt for prompt in prompts if prompt.strip() and not known.search(" ".join(prompt.lower().split()))]


def vocabulary_notes(model: str, prompts: Sequence[str]) -> list[str]:
    """One line about the prompts that the bundled model can't draw; empty if there are none."""
    unknown = out_of_vocabulary(model, prompts)
    if not unknown:
        return []
    listed = ", ".join(repr(" ".join(prompt.split())[:LETTERS]) for prompt in unknown[:SHOWN])
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    return [
        f"The bundled model knows {len(vocabulary())} things by name ({BUNDLED / 'vocabulary.txt'}), and "
        f"{listed}{more} name{'s' * (len(unknown) == 1)} none of them: the picture will show something else. The model "
        f'is for comparing schedulers; for such prompts use Stable Diffusion, model="{EXAMPLE_HUB_ID}".'
    ]
