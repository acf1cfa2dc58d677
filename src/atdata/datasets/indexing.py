"""Single samples of a dataset, by number or by key, and several at once."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atdata.datasets.fetching import Fetching, Wanted
from atdata.datasets.steps import Filter, NarrowingStep
from atdata.errors import DatasetError, SampleIndexError, SampleKeyError, StepError

if TYPE_CHECKING:
    from atdata.datasets.access import Access
    from atdata.datasets.dataset import Dataset

__all__ = ["by_key", "item", "numbers"]


def numbers(given: Any, length: int | None) -> NDArray[np.int64]:
    """Sample numbers as an array.

    Args:
        given: a list, range or array of integers.
        length: how many samples there are, where known: then negative numbers count from the end.

    Raises:
        SampleIndexError: there is no such sample.
        TypeError: these are no integers.
    """
    found = np.asarray(given)
    if isinstance(given, tuple) or found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
        raise TypeError(f"samples are asked for by a number, a slice or a list of numbers, not by {given!r:.100}")
    found = found.astype(np.int64)
    if length is None:
        return found
    wrong = found[(found < -length) | (found >= length)]
    if len(wrong):
        raise _no_sample(int(wrong[0]), length)
    return np.where(found < 0, found + length, found)


def item(dataset: Dataset[Any], index: Any) -> Any:
    """One sample for a number; a list of samples for a slice or a list of numbers."""
    if dataset._located is None:
        raise DatasetError("samples in memory cannot be indexed; write them with a store's write_shards first")
    access = dataset._shards()
    length = access.length() if dataset._keeps_all else _length(dataset, access)
    if type(index) is not int:  # which is what most ask for, often, and one at a time
        if isinstance(index, slice):
            return list(_several(dataset, np.arange(*index.indices(length))))
        if not hasattr(index, "__index__") or (isinstance(index, np.ndarray) and index.ndim):
            return list(_several(dataset, numbers(index, length)))
        index = operator.index(index)
    at = index + length if index < 0 else index
    if not 0 <= at < length:
        raise _no_sample(index, length)
    if not dataset._steps:
        return access.row(*access.place(at), dataset._stored_type)
    if dataset._keeps_all:
        return _one(dataset, access, *access.place(at), dataset.steps)
    _, selection, values = dataset._resolved()
    places = selection.places(np.array([at]))
    return _one(dataset, access, int(places.shards[0]), int(places.rows[0]), values)


def _no_sample(index: int, length: int) -> SampleIndexError:
    return SampleIndexError(f"there is no sample {index}: the dataset has {length}")


def _length(dataset: Dataset[Any], access: Access) -> int:
    """Number of samples after steps that leave some out."""
    if dataset._scans:
        raise DatasetError("a dataset with a filter cannot be indexed: which sample has which number is not known")
    length = dataset._after_steps(access.length())
    return len(dataset) if length is None else length


def _several(dataset: Dataset[Any], wanted: NDArray[np.int64]) -> Iterator[Any]:
    access = dataset._shards()
    _, selection, values = dataset._resolved()
    places = selection.places(wanted)
    view = dataset._view(values)
    if not access.seekable:
        for number, key, sample in access.rows(places, view.stored_type):
            yield from (made for _, made in view.of(access.refs[number].url, [(key, sample)]))
        return
    for stretch in Fetching(access, iter([Wanted(places)]), view.demand()).read():
        yield from view.decoded(stretch, 0, len(stretch))


def _one(dataset: Dataset[Any], access: Access, number: int, row: int, values: Any) -> Any:
    view = dataset._view(values, access)
    sample = access.row(number, row, view.stored_type)
    if not view.left:
        return sample
    return next(view.of(access.refs[number].url, [(access.key(number, row), sample)]))[1]


def by_key(dataset: Dataset[Any], key: str) -> Any:
    """The first sample with that key.

    Raises:
        SampleKeyError: there is none, or a step leaves it out.
    """
    access = dataset._shards()
    there = False
    for number, row in access.find(key):
        there = True
        if not dataset._scans:
            _, selection, values = dataset._resolved()
            if selection.find(number, row) is not None:
                return _one(dataset, access, number, row, values)
            continue
        if any(isinstance(step, NarrowingStep) and not isinstance(step, Filter) for step in dataset.steps):
            raise DatasetError("get is not possible with both filter and take: which samples are left is not known")
        sample = access.row(number, row, dataset._stored_type)
        try:
            for _, made in dataset._through_steps(iter([(key, sample)])):
                return made
        except StepError as error:
            error.at(url=access.refs[number].url)
            raise
    if there:
        raise SampleKeyError("the sample is left out by a step of the dataset", key=key)
    raise SampleKeyError("no sample has this key", key=key)
