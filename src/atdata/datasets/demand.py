"""Which fields of samples on servers are fetched ahead of the reader."""

from __future__ import annotations

from atdata.datasets.remote import Fields

__all__ = ["Demand"]


class Demand:
    """What is wanted of the samples of an iteration.

    Args:
        fields: those that are wanted, where that is known; None for whatever somebody asks for, and everything else
            as long as nobody has.
    """

    def __init__(self, fields: Fields = None) -> None:
        self._fields = fields
        self._first = 0
        self._asked: set[str] = set()
        self._all = False

    def begin(self, first: int) -> Demand:
        """Another iteration of the same: it begins with what was asked for before.

        Args:
            first: samples of which nothing is fetched when nobody has asked before, because they will tell.
        """
        self._first = first
        return self

    @property
    def asks(self) -> bool:
        """Whether there are samples yet that will tell what is wanted."""
        return self._fields is None and not self._asked and not self._all and self._first > 0

    def untold(self, count: int) -> int:
        """How many of the next `count` samples are to be given out as they lie on their server."""
        found = min(count, self._first) if self.asks else 0
        self._first -= found
        return found

    def ask(self, fields: Fields) -> None:
        """Take note of what somebody asks for; None is all there is."""
        if fields is None:
            self._all = True
        else:
            self._asked.update(fields)

    def ahead(self) -> Fields:
        """What to fetch of the samples that come next."""
        if self._fields is not None:
            return self._fields
        return None if self._all or not self._asked else tuple(sorted(self._asked))
