"""Which fields of samples on servers are fetched ahead of the reader."""

from __future__ import annotations

from atdata.datasets.remote import Fields

__all__ = ["Demand"]


class Demand:
    """What is wanted of the samples of an iteration.

    Args:
        most: the fields that may be wanted; None for whole samples.
        first: samples of which nothing is fetched, because they will tell what is wanted.
    """

    def __init__(self, most: Fields = None, first: int = 0) -> None:
        self._most = most
        self._first = first
        self._asked: set[str] | None = set()
        self._known = False

    def begin(self, most: Fields, first: int) -> Demand:
        """Another iteration of the same: what was wanted before is what it begins with."""
        self._most, self._first = most, first
        return self

    @property
    def asks(self) -> bool:
        """Whether there are samples yet that will tell what is wanted."""
        return not self._known and self._first > 0

    def untold(self, count: int) -> int:
        """How many of the next `count` samples are to be given out as they lie on their server."""
        if self._known:
            return 0
        found = min(count, self._first)
        self._first -= found
        return found

    def ask(self, fields: Fields) -> None:
        """Take note of what is wanted; None is whatever there is."""
        if fields is None:
            self._asked = None
        elif self._asked is not None:
            self._asked.update(fields)
        self._known = True

    def ahead(self) -> Fields:
        """What to fetch of the samples that come next."""
        asked = self._asked
        if asked is None or not asked:
            return self._most
        return tuple(name for name in self._most if name in asked) if self._most is not None else tuple(sorted(asked))
