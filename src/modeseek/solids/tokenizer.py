"""Tokenizer of the solids' captions: a stock `CLIPTokenizer` in which every word of the vocabulary is one token.

Byte-pair merges are added word by word, each word encoded with the merges so far. Merges listed independently for each word would break
later words: "re" of "red" ranks before "gr" of "green". Every letter is in the vocabulary too, because the unknown token is the end of the
text and would cut the prompt; `modeseek.solids.captions.check_words` rejects such words earlier.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from modeseek.solids.captions import WORDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_TOKENS = 20
START, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Index of each token, and the merges in order."""
    letters = string.ascii_lowercase + string.digits + ",.-'!?"
    tokens = [START, END, *letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        for left, right in merges:
            index = 0
            while index < len(pieces) - 1:
                if (pieces[index], pieces[index + 1]) == (left, right):
                    pieces[index : index + 2] = [left + right]
                index += 1
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            tokens.append(pieces[0])
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def tokenizer() -> CLIPTokenizer:
    """The tokenizer, built from the vocabulary alone."""
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)  # type: ignore[arg-type]
