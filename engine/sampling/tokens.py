"""What a model reads of prompts: how many tokens they have, where they are cut off, and which are one to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import DiffusionPipeline

from engine.sampling.idle import parameters

# Tokenizers without a limit say a number like 10 to the 30.
NO_LIMIT = 100_000


def token_notes(pipe: DiffusionPipeline, prompts: Sequence[str], arguments: Mapping[str, Any]) -> list[str]:
    """What a person should know of prompts that are too long for a model, or the same to it.

    Args:
        pipe: The pipeline; its tokenizers are asked, its text encoders are not.
        prompts: Of a study.
        arguments: Of the pipeline's call: `max_sequence_length` counts.
    """
    tokenizers = {name: part for name, part in pipe.components.items() if name.startswith("tokenizer") and part}
    if not tokenizers or any(not hasattr(part, "vocab_size") for part in tokenizers.values()):
        return []
    read: dict[tuple[Any, ...], list[str]] = {}
    notes = []
    for prompt in prompts:
        seen: list[Any] = []
        for name, tokenizer in tokenizers.items():
            ids = list(tokenizer(prompt, truncation=False, verbose=False)["input_ids"])
            limit = _limit(pipe, name, tokenizer, arguments)
            cut = ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
            seen.append(tuple(cut))
            if len(ids) > limit:
                notes.append(f"Prompt {prompt[:60]!r} has {len(ids)} tokens, of which {name} reads the first {limit}.")
        read.setdefault(tuple(seen), []).append(prompt)
    for same in read.values():
        if len(same) > 1:
            listed = ", ".join(repr(prompt[:60]) for prompt in same[:4])
            notes.append(
                f"{len(same)} prompts are one to the model, which reads the same tokens: {listed}. They give the same "
                "pictures, so that what is found has less behind it than it counts; keep one of them."
            )
    return notes


def _limit(pipe: DiffusionPipeline, name: str, tokenizer: Any, arguments: Mapping[str, Any]) -> int:
    """Most tokens that are read: the tokenizer's own limit, or that of the call for the longer ones."""
    own = min(int(tokenizer.model_max_length), NO_LIMIT)
    parameter = parameters(pipe).get("max_sequence_length")
    asked = arguments.get("max_sequence_length", parameter.default if parameter is not None else None)
    return min(own, asked) if isinstance(asked, int) and own > 77 else own
