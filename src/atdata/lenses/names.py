"""Names that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["near"]


def near(name: str, names: Iterable[str]) -> str:
    """What to say after "there is no `name`": the names that are near it, else all of them (or the first).

    Example:
        >>> near("lable", ["image", "label"])
        '; did you mean label?'
        >>> near("x", ["image", "label"])
        '; there are image, label'
    """
    known = list(names)
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if found:
        return f"; did you mean {' or '.join(found)}?"
    shown = ", ".join(known[:20]) or "none"
    return f"; there are {shown}{', …' if len(known) > 20 else ''}"
