"""Counts the tokens of a prompt as the text encoder gets it, without torch and without the text encoder's weights."""

import html
import re
from functools import cache
from pathlib import Path

import ftfy
from tokenizers import Tokenizer

MAX_PROMPT_TOKENS = 512
"""The tokens that diffusers' Wan pipelines (0.42) pass to the text encoder; they drop the rest of a longer prompt."""
_SHORT = MAX_PROMPT_TOKENS - 2
"""ASCII characters that cannot be more tokens than allowed, with the tokens for the beginning and the end."""


def too_many_tokens(folder: Path, prompt: str) -> int | None:
    """Return the number of tokens of ``prompt`` if the text encoder would not read all of them, else None.

    The count needs ``tokenizer/tokenizer.json`` of the model folder, which ``ModelFolder.read`` downloads with the
    other JSON files. It is loaded at the first prompt that needs it. Without that file nothing is counted.
    """
    if prompt.isascii() and len(prompt) <= _SHORT:
        return None
    tokenizer = _tokenizer(folder / "tokenizer/tokenizer.json")
    if tokenizer is None:
        return None
    count = len(tokenizer.encode(_cleaned(prompt)).ids)
    return count if count > MAX_PROMPT_TOKENS else None


@cache
def _tokenizer(file: Path) -> Tokenizer | None:
    if not file.exists():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    # A tokenizer.json stores how it was used last.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _cleaned(prompt: str) -> str:
    """Clean a prompt as ``prompt_clean`` of diffusers' Wan pipelines (pipeline_wan.py, 0.42) does."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return re.sub(r"\s+", " ", text).strip()
