"""From the steps of a plan to the stored samples that are left, and what is made of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from atdata.datasets.access import Access
from atdata.datasets.columns import Lying, Stretch
from atdata.datasets.demand import Demand
from atdata.datasets.fetching import Fetching, Wanted
from atdata.datasets.seeing import Decoded, Passed, Seen, column_lens, decoding
from atdata.datasets.selection import Selection
from atdata.datasets.steps import NarrowingStep, Step, ValueStep
from atdata.errors import DatasetError, StepError
from atdata.shards.extract import fields_of
from atdata.shards.reader import BufferShard, Shard

__all__ = ["Resolved", "View", "resolve"]

_AT_ONCE = 16 << 20  # bytes of samples that are read together while a step looks at all of them


class View:
    """How stored samples look at some point of a plan.

    Attributes:
        access: their shards.
        values: the steps that make something of each, up to that point.
        decoding: what of these steps is in the decoding of samples.
        stored_type: the class they are decoded as: no more than a lens that comes first reads.
        left: whether anything is to be made of them then.
        lies: whether batches of them can be made of columns, before any sample is decoded.
    """

    def __init__(self, access: Access, stored_type: type, values: tuple[ValueStep, ...] = ()) -> None:
        self.access = access
        self.values = values
        self.decoding = decoding(stored_type, values, access.schema)
        self.stored_type = self.decoding.stored_type
        self.left = bool(self.decoding.left)
        self._lens = column_lens(stored_type, values) if self.decoding.passing is None else None
        self.lies = not self.left or self._lens is not None
        self._make = _made(self.decoding)

    @property
    def holds(self) -> bool:
        """Whether samples still look so: lenses do what they did."""
        return self.decoding.holds

    def demand(self) -> Demand:
        """The fields that it takes to make these samples."""
        return Demand(fields_of(self.stored_type))

    def lying(self, stored: Lying) -> Lying:
        """Stored samples as they look here, when they `lie`."""
        if self.decoding.passing is not None:
            return Passed(stored, self.stored_type, self.decoding.passing)
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
        for stretch in Fetching(self.access, wanted, self.demand()).read():
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

    def shard(self, shard: Shard, start: int, stop: int | None) -> Iterator[Any]:
        """The samples of a shard from `start` up to `stop`; nobody needs their keys.

        Raises:
            StepError: a user's function failed; it names shard and key.
        """
        if self.left and not isinstance(shard, BufferShard):  # which would have to be read again for a key
            return (sample for _, sample in self.of(shard.url, shard.keyed(self.stored_type, start, stop)))
        stored = shard.samples(self.stored_type, start, stop)
        return self._each(stored, lambda at: (shard.url, shard.key(start + at))) if self.left else stored

    def decoded(self, stretch: Stretch, start: int, stop: int) -> Iterator[Any]:
        """The samples of a stretch from `start` up to `stop`, without their keys; else as `shard`."""
        stored = stretch.decoded(self.stored_type, start, stop)
        return self._each(stored, lambda at: stretch.place(start + at)) if self.left else stored

    def _each(self, stored: Iterator[Any], place: Callable[[int], tuple[str, str]]) -> Iterator[Any]:
        """What is made of each stored sample; `place` gives URL of the shard and key of one."""
        make = self._make
        for at, sample in enumerate(stored):
            try:
                found = make(sample)
            except StepError as error:
                if error.key is None or error.url is None:
                    url, key = place(at)
                    error.at(url=url, key=key)
                raise
            yield found

    def _one(self, url: str, key: str, sample: Any) -> Any:
        if not self.left:
            return sample
        try:
            return self._make(sample)
        except StepError as error:
            error.at(url=url, key=key)
            raise


def _made(decoded: Decoded) -> Callable[[Any], Any]:
    """What is made of each sample by the steps that are left."""
    given = decoded.stored_type if decoded.passing is None else decoded.passing.view
    functions = []
    for step in decoded.left:
        assert isinstance(step, ValueStep)
        functions.append(step.maker(given))
        given = step.type_after(given)
    if len(functions) == 1:
        return functions[0]

    def make(sample: Any) -> Any:
        for function in functions:
            sample = function(sample)
        return sample

    return make


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
