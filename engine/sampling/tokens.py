"""How a model reads prompts: their number of tokens, where they are truncated, and which ones are the same to it."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline

from engine.sampling.idle import parameters

# Tokenizers without a limit report a number like 10^30.
NO_LIMIT = 100_000
# Syntax of other programs: (word:1.2), ((word)), [word], [from:to:0.5], BREAK, <lora:file:0.8>.
WEIGHTS = re.compile(r"\([^()]*:[+-]?\d*\.?\d+\)|\(\([^()]+\)\)|\[[^\[\]]+\]|\bBREAK\b|<(?:lora|lyco|hypernet):[^<>]+>")


@dataclass(frozen=True)
class Reading:
    """How a model reads a prompt.

    Attributes:
        prompt: As written.
        reading: Digest of the tokens that the model reads; prompts with the same digest are the same to it.
        note: A warning about the prompt; None if there is none.
    """

    prompt: str
    reading: str
    note: str | None


def read_prompts(pipe: DiffusionPipeline, prompts: Sequence[str], arguments: Mapping[str, Any]) -> list[Reading]:
    """How a model reads prompts.

    Args:
        pipe: The pipeline; only its tokenizers are used.
        prompts: Prompts of a study.
        arguments: Arguments of the pipeline call, which may limit the tokens (`max_sequence_length`).
    """
    tokenizers = {name: part for name, part in pipe.components.items() if name.startswith("tokenizer") and part}
    if any(not hasattr(part, "vocab_size") for part in tokenizers.values()):
        tokenizers = {}
    found = []
    for prompt in prompts:
        # Without a usable tokenizer, the text itself is compared.
        seen: list[Any] = [] if tokenizers else [prompt]
        notes = list(_foreign_marks(prompt))
        for name, tokenizer in tokenizers.items():
            ids = list(tokenizer(prompt, truncation=False, verbose=False)["input_ids"])
            limit = _limit(pipe, name, tokenizer, arguments)
            seen.append(ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]])
            if len(ids) > limit:
                notes.append(f"has {len(ids)} tokens, of which {name} reads the first {limit}")
        digest = hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
        found.append(Reading(prompt, digest, "; ".join(notes) or None))
    return found


def _foreign_marks(prompt: str) -> Iterator[str]:
    marks = list(dict.fromkeys(match[0] for match in WEIGHTS.finditer(prompt)))
    if marks:
        listed = ", ".join(marks[:3])
        yield f"contains {listed}, which other programs take as weights or commands; here they are read as words"


def _limit(pipe: DiffusionPipeline, name: str, tokenizer: Any, arguments: Mapping[str, Any]) -> int:
    """Most tokens that are read: the tokenizer's own limit, or for long ones that of the call."""
    own = min(int(tokenizer.model_max_length), NO_LIMIT)
    parameter = parameters(pipe).get("max_sequence_length")
    asked = arguments.get("max_sequence_length", parameter.default if parameter is not None else None)
    return min(own, asked) if isinstance(asked, int) and own > 77 else own
