"""The check of all shards of a dataset, several at a time: that they are there, their digests, or every sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

from atdata.datasets.shard_check import Problem, ShardCheck, ShardFindings, wrong_size
from atdata.datasets.sources import Located, ShardRef
from atdata.errors import AccessDeniedError, AtdataError, DatasetNotFoundError, StoreError
from atdata.stores.flight import Stop, in_flight
from atdata.stores.http import public_url
from atdata.stores.opening import Opening

__all__ = ["Depth", "audit"]

Depth = Literal["sizes", "digests", "samples"]
"""How deep a shard is looked into: whether it is there and how long it is; every byte; and every sample, too."""

_SHARDS = 4  # under way
_ASKED = 16  # where only their sizes are asked for
_LARGE = 40 << 20  # bytes of memory that a large shard takes while it is read
_BUDGET = 96 << 20
_LOST = 3  # shards that could not be read after which their server is taken to be gone


def audit(
    located: Located, opening: Opening, sample_type: type, depth: Depth, going_on: Callable[[int], None]
) -> Iterator[ShardFindings]:
    """What comes out for each shard, in order; no more where their server is gone.

    Args:
        located: the shards.
        opening: how they are opened.
        sample_type: the class of their samples.
        depth: how deep they are looked into.
        going_on: called with the number of samples that were read since, or of shards where none are.
    """
    stop = Stop()

    def advance(samples: int) -> None:
        stop.check()
        if samples and depth == "samples":
            going_on(samples)

    def check(ref: ShardRef) -> tuple[ShardFindings, bool]:
        if depth == "sizes":
            found, lost = _size(ref, opening)
            going_on(1)
            return found, lost
        one = ShardCheck(ref, opening, sample_type, depth == "digests", advance)
        found = one.run()
        far = opening.path(ref.url) is None
        if far and found.problems and one.lost is None:  # it may have been damaged on the way
            found = ShardCheck(ref, opening, sample_type, depth == "digests", lambda _: stop.check()).run()
            if not found.problems:
                found.notes.append(f"{found.url}: came damaged, and right when it was read once more")
        if depth == "digests":
            going_on(1)
        return found, far and one.lost is not None

    def memory(ref: ShardRef) -> int:
        return 0 if depth == "sizes" else min(_LARGE, ref.info.size if ref.info else _LARGE)

    jobs = ((memory(ref), partial(check, ref)) for ref in located.shards)
    most = _ASKED if depth == "sizes" else _SHARDS
    lost = 0
    with contextlib.closing(in_flight(jobs, stop, most=most, budget=_BUDGET)) as checked:
        for found, gone in checked:
            yield found
            lost = lost + 1 if gone else 0
            if lost == _LOST:
                return


def _size(ref: ShardRef, opening: Opening) -> tuple[ShardFindings, bool]:
    """Whether a shard is there, as long as is recorded; and whether its server cannot be asked."""
    url = public_url(ref.url)
    found, lost = ShardFindings(url), False
    try:
        found.bytes = opening.open(ref.url).size
        wrong = wrong_size(ref, found.bytes)
        if wrong is not None:
            found.problems.append(Problem.of(wrong, url))
    except (AtdataError, OSError) as error:
        lost = isinstance(error, StoreError) and not isinstance(error, DatasetNotFoundError | AccessDeniedError)
        found.problems.append(Problem.of(error, url))
    return found, lost and opening.path(ref.url) is None
