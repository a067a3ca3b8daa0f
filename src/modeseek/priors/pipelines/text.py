"""Prompts before they meet a text encoder: empty ones are refused, and what a tokenizer would cut is said aloud."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from modeseek.core.errors import InvalidInput, PromptCut


def check_prompts(prompts: Sequence[str], *readers: tuple[Any, int]) -> list[str]:
    """The prompts as a list.

    Args:
        prompts: texts.
        readers: (tokenizer, tokens it passes on) of each text encoder.

    Raises:
        InvalidInput: a prompt is empty or no text.

    Warns:
        PromptCut: a text encoder reads only the beginning of a prompt.
    """
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise InvalidInput(
                f"a prompt must be a text that is not empty, got {prompt!r}; for no condition, give guidance=0 with any prompt"
            )
    warn_of_cuts(prompts, *readers)
    return list(prompts)


def warn_of_cuts(prompts: Sequence[str], *readers: tuple[Any, int]) -> None:
    """Warn of each text that a tokenizer cuts."""
    for prompt in dict.fromkeys(prompts):
        for tokenizer, limit in readers:
            ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
            if len(ids) > limit:  # the closing token is kept, so the text loses one more
                cut = tokenizer.decode(ids[limit - 1 : -1]).strip()
                words = f"{type(tokenizer).__name__} reads {limit} of the {len(ids)} tokens of a prompt; cut: {cut!r}"
                warnings.warn(words, PromptCut, stacklevel=2)
