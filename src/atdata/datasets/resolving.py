"""From the steps of a plan to the stored samples that are left, and what is made of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from atdata.datasets.access import Access
from atdata.datasets.columns import Lying, Stretch
from atdata.datasets.fetching import Fetching, Wanted
from atdata.datasets.seeing import Seen, column_lens, type_to_read
from atdata.datasets.selection import Selection
from atdata.datasets.steps import NarrowingStep, Step, ValueStep
from atdata.errors import DatasetError, StepError

__all__ = ["Resolved", "View", "resolve"]

_AT_ONCE = 16 << 20  # bytes of samples that are read together while a step looks at all of them


class View:
    """How stored samples look at some point of a plan.

    Attributes:
        access: their shards.
        stored_type: the class they are read as; for a lens that comes first one of only the fields that it reads.
        values: the steps that make something of each, up to that point.
        lies: whether batches of them can be made of columns, before any sample is decoded.
    """

    def __init__(self, access: Access, stored_type: type, values: tuple[ValueStep, ...] = ()) -> None:
        self.access = access
        self.stored_type = type_to_read(stored_type, values, access.schema)
        self.values = values
        self._lens = column_lens(stored_type, values)
        self.lies = not values or self._lens is not None

    def lying(self, stored: Lying) -> Lying:
        """Stored samples as they look here, when they `lie`."""
        return stored if self._lens is None else Seen(stored, self.stored_type, self._lens, self._one)

    def samples(self, selection: Selection) -> Iterator[tuple[str, Any]]:
        """Key and sample, in the order of the selection; see `placed`."""
        for _, key, sample in self.placed(selection):
            yield key, sample

    def placed(self, selection: Selection) -> Iterator[tuple[str, str, Any]]:
        """URL of the shard, key and sample, in the order of the selection.

        Raises:
            DatasetError: the shards can only be read through.
        """
        if not self.access.seekable:
            raise DatasetError(
                "which samples are left cannot be told before they are read: these shards are read from front to back "
                "(compressed, or from a source). Write them anew with a store's write_shards"
            )
        each = max(1, sum(self.access.sizes()) // max(self.access.length(), 1))
        at_once = max(1, min(_AT_ONCE // each, 8192))
        wanted = (
            Wanted(selection.places(np.arange(start, min(start + at_once, len(selection)))))
            for start in range(0, len(selection), at_once)
        )
        for stretch in Fetching(self.access, wanted).read():
            for url, key, sample in stretch.keyed(self.stored_type, 0, len(stretch)):
                yield url, key, self._one(url, key, sample)

    def seen(self, stretch: Stretch, start: int, stop: int) -> Iterator[tuple[str, Any]]:
        """Key and sample, from number `start` up to `stop` of a stretch.

        Raises:
            StepError: a user's function failed; it names shard and key.
        """
        for url, key, sample in stretch.keyed(self.stored_type, start, stop):
            yield key, self._one(url, key, sample)

    def of(self, url: str, samples: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Key and sample, of samples out of the shard at `url`."""
        for key, sample in samples:
            yield key, self._one(url, key, sample)

    def _one(self, url: str, key: str, sample: Any) -> Any:
        try:
            for step in self.values:
                sample = step.one(sample, key)
        except StepError as error:
            error.at(url=url)
            raise
        return sample


class Resolved(NamedTuple):
    """A plan that was followed as far as samples are left out.

    Attributes:
        steps: how many of its steps that is.
        selection: the stored samples that are left.
        values: what is made of each of them.
    """

    steps: int
    selection: Selection
    values: tuple[ValueStep, ...]


def resolve(steps: tuple[Step, ...], access: Access, stored_type: type, known: Resolved | None = None) -> Resolved:
    """Follow a plan.

    Args:
        steps: its steps.
        access: the shards, which must be seekable.
        stored_type: the class samples are read as.
        known: what is known of the first of these steps.
    """
    if known is None:
        known = Resolved(0, Selection.whole([access.count(number) for number in range(len(access.refs))]), ())
    _, selection, values = known
    for step in steps[known.steps :]:
        if isinstance(step, NarrowingStep):
            selection = step.narrow(selection, View(access, stored_type, values))
        else:
            assert isinstance(step, ValueStep)
            values = (*values, step)
    return Resolved(len(steps), selection, values)
