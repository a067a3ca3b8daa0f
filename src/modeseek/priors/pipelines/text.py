"""Checks of prompts before they are encoded, and embeddings given in their place.

Empty prompts are refused, and a prompt that a tokenizer cuts is warned of, counted as the pipeline counts: after a textual inversion has
turned its word into several tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from modeseek.core.errors import InvalidInput, PromptCut

Reader = tuple[Any, int]
"""A tokenizer, and how many tokens of it the text encoder reads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbeds:
    """Embeddings in place of prompts, as a pipeline's `encode_prompt` returns them; one row per item.

    Args:
        tokens: (items, tokens, width), the pipeline's `prompt_embeds`.
        pooled: (items, width), its `pooled_prompt_embeds`, for models that have them.
        mask: (items, tokens), its `prompt_attention_mask`, for models that have it.

    Example:
        >>> import torch
        >>> embeds = PromptEmbeds(tokens=torch.zeros(3, 77, 768))
        >>> len(embeds), len(embeds[:2])
        (3, 2)
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = {field.name: len(value) for field in fields(self) if (value := getattr(self, field.name)) is not None}
        if self.tokens.ndim != 3 or len(set(sizes.values())) != 1:
            raise InvalidInput(f"embeddings are tokens (items, tokens, width), pooled and mask with as many items; got {sizes}")
        if not bool(self.tokens.isfinite().all()):
            raise InvalidInput("prompt embeddings have NaN or infinite entries")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, items: slice | list[int]) -> PromptEmbeds:
        rows = [None if value is None else value[items] for value in (self.pooled, self.mask)]
        return PromptEmbeds(tokens=self.tokens[items], pooled=rows[0], mask=rows[1])

    def expanded(self, count: int) -> PromptEmbeds:
        """One row repeated for `count` items.

        Raises:
            InvalidInput: neither one row nor `count` of them.
        """
        if len(self) not in (1, count):
            raise InvalidInput(f"{len(self)} negative embeddings for {count} prompts: give one, or one per prompt")
        return self if len(self) == count else self[[0] * count]


Prompts = Sequence[str] | PromptEmbeds
Negative = str | Sequence[str | None] | PromptEmbeds | None
"""One negative prompt for all items or one per item; None: the pipeline's own, the empty prompt or a zero embedding."""


def negatives_of(negative: Negative, count: int) -> list[str | None] | PromptEmbeds:
    """One negative prompt per item.

    Raises:
        InvalidInput: neither one nor `count` of them, or an entry that is neither a text nor None.
    """
    if isinstance(negative, PromptEmbeds):
        return negative.expanded(count)
    if negative is not None and not isinstance(negative, str | Sequence):
        raise InvalidInput(f"a negative prompt is a text, one text or None per prompt, or PromptEmbeds, got {negative!r}")
    found = [negative] * count if negative is None or isinstance(negative, str) else list(negative)
    if len(found) != count:
        raise InvalidInput(f"{len(found)} negative prompts for {count} prompts: give one text, or one per prompt")
    for entry in found:
        if entry is not None and not isinstance(entry, str):
            raise InvalidInput(f"a negative prompt is a text or None, got {entry!r}")
    return found


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        InvalidInput: a prompt is empty or no text.
    """
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise InvalidInput(f"a prompt is a text that is not empty, got {prompt!r}; for no condition, give guidance=0 with any prompt")
    return list(prompts)


def warn_of_cuts(prompts: Sequence[str], readers: Sequence[Reader], pipeline: Any = None) -> None:
    """Warn of each text that a tokenizer cuts.

    Args:
        prompts: texts.
        readers: tokenizer and limit of each text encoder.
        pipeline: with textual inversions, or None.

    Warns:
        PromptCut: a text encoder reads only the beginning of a prompt.
    """
    for prompt in dict.fromkeys(prompts):
        for tokenizer, limit in readers:
            converted = prompt if not hasattr(pipeline, "maybe_convert_prompt") else pipeline.maybe_convert_prompt(prompt, tokenizer)
            ids = tokenizer(converted, truncation=False, verbose=False).input_ids
            if len(ids) > limit:  # the closing token is kept, so the text loses one more
                cut = tokenizer.decode(ids[limit - 1 : -1]).strip()
                words = f"{type(tokenizer).__name__} reads {limit} of the {len(ids)} tokens of a prompt; cut: {cut!r}"
                warnings.warn(words, PromptCut, stacklevel=2)


def checked_embeds(embeds: PromptEmbeds, *, width: int | None, pooled: int | None = None, mask: bool = False) -> PromptEmbeds:
    """The embeddings, checked against what a network takes.

    Args:
        embeds: what was given.
        width: of the tokens, if known.
        pooled: width of the pooled embedding; None: the model takes none.
        mask: whether the model takes a mask.

    Raises:
        InvalidInput: another width, or a part that is missing or not taken.
    """
    if width is not None and embeds.tokens.shape[-1] != width:
        raise InvalidInput(f"this model reads token embeddings of width {width}, got {tuple(embeds.tokens.shape)}")
    if (embeds.pooled is None) != (pooled is None):
        raise InvalidInput(
            f"this model takes {'no pooled embedding' if pooled is None else f'a pooled embedding of width {pooled} as well'}"
        )
    if embeds.pooled is not None and embeds.pooled.shape[-1] != pooled:
        raise InvalidInput(f"this model reads pooled embeddings of width {pooled}, got {tuple(embeds.pooled.shape)}")
    if (embeds.mask is None) == mask:
        raise InvalidInput(f"this model takes {'the attention mask of the tokens as well' if mask else 'no attention mask'}")
    return embeds
