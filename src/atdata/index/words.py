"""The words by which a text is found, the same for every engine."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

__all__ = ["words_in"]

_WORD = re.compile(r"[^\W_]+")
_MAX_WORD = 64
_MAX_WORDS = 5000


def words_in(texts: Iterable[str | None]) -> list[str]:
    """The different words of some texts: runs of letters and digits, without case and accents, cut at 64 characters.

    Example:
        >>> words_in(["Café-Digits v2", "digits of Zürich"])
        ['cafe', 'digits', 'v2', 'of', 'zurich']
    """
    found: dict[str, None] = {}
    for text in texts:
        if text is None:
            continue
        if not text.isascii():
            apart = unicodedata.normalize("NFKD", text.casefold())
            text = unicodedata.normalize("NFC", "".join(c for c in apart if not unicodedata.combining(c)))
        for match in _WORD.finditer(text.lower()):
            found[match[0][:_MAX_WORD]] = None
            if len(found) == _MAX_WORDS:
                return list(found)
    return list(found)
