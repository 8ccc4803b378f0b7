"""Pieces of the sentences that people read: a value, a list of names, a guess. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "join_names", "sentence", "shorten", "show"]


def shorten(text: str, limit: int = 60) -> str:
    """Return `text`, cut to `limit` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def show(value: object, limit: int = 60) -> str:
    """Return a value as an error message quotes it: on one line, printable, at most `limit` long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"  # its repr may be refused by Python, or fill the page
    # Cut first: the repr of a megabyte is a megabyte.
    text = repr(value[: 2 * limit] if isinstance(value, str) else value)
    return shorten(text, limit)


def sentence(text: str) -> str:
    """Return `text` with a capital and one full stop; nothing for nothing."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def join_names(names: Iterable[str], limit: int = 8) -> str:
    """Return names for a sentence: ``'a', 'b'``; after `limit` of them ``and 4 more``."""
    shown = [show(name, 42) for name in names]
    if len(shown) > limit:
        return f"{', '.join(shown[:limit])} and {len(shown) - limit} more"
    return ", ".join(shown) or "none"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the name in `known` closest to `word`, or nothing."""
    # A word far longer than any name is no slip of the pen, and comparing it takes long.
    close = difflib.get_close_matches(word, list(known), n=1) if len(word) <= 100 else []
    return f"; did you mean {close[0]!r}?" if close else ""
