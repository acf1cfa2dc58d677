"""Shards that lie far away: windows of whole samples, each one range, checked as they arrive."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atdata.datasets.checks import check_rows
from atdata.errors import IntegrityError
from atdata.shards.grouping import RawSample
from atdata.shards.manifest import Manifest
from atdata.shards.reader import BufferShard, Rows, Shard
from atdata.stores.base import StoredObject
from atdata.stores.ranges import windows

__all__ = ["GAP", "WINDOW", "RemoteShard", "Request"]

GAP = 128 << 10  # bytes between two samples that are read for nothing rather than ask twice
WINDOW = 4 << 20  # bytes of one range: long enough for a connection to reach its speed, short enough to come soon


class Request(NamedTuple):
    """One range to fetch: its bytes, the samples it is for, and what fetches and checks it."""

    size: int
    rows: NDArray[np.int64]
    fetch: Callable[[], BufferShard]


class RemoteShard(Shard):
    """A shard on a server that has a manifest: any run of its samples is one range.

    Args:
        url: its place, for messages.
        file: the object.
        manifest: its manifest, known to be its own.
        check: whether every sample is checked against its digest.
    """

    manifest: Manifest

    def __init__(self, url: str, file: StoredObject, manifest: Manifest, *, check: bool) -> None:
        self.url = url
        self.manifest = manifest
        self._file = file
        self._check = check

    def __len__(self) -> int:
        return len(self.manifest)

    def key(self, row: int) -> str:
        """The key of sample `row`."""
        return self.manifest.keys[row]

    def find(self, key: str) -> int | None:
        """The number of the first sample with that key; None when there is none."""
        return self.manifest.numbers.get(key)

    def raw(self, start: int = 0, stop: int | None = None) -> Iterator[RawSample]:
        """The samples from `start` up to `stop` as they lie in the archive."""
        for first, last in self.plan(start, stop):
            yield from self.window(first, last).raw(first, last)

    def samples(self, sample_type: type, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """The samples from `start` up to `stop`."""
        for first, last in self.plan(start, stop):
            yield from self.window(first, last).samples(sample_type, first, last)

    def plan(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Runs of neighbouring samples, each one range to fetch."""
        offsets = self.manifest.offsets[start:stop]
        ends = offsets + self.manifest.sizes[start:stop]
        for first, last in windows(offsets.tolist(), ends.tolist(), WINDOW):
            yield start + first, start + last

    def span(self, start: int, stop: int) -> int:
        """Bytes to fetch for the samples from `start` up to `stop`."""
        return int(self.manifest.offsets[stop - 1] + self.manifest.sizes[stop - 1] - self.manifest.offsets[start])

    def window(self, start: int, stop: int) -> BufferShard:
        """The samples from `start` up to `stop`, fetched and checked; what does not match is fetched once more.

        Raises:
            IntegrityError: a sample's bytes are not those that were written.
        """
        return self._range(slice(start, stop))

    def requests(self, rows: NDArray[np.int64]) -> Iterator[Request]:
        """What to ask for, for these samples: as few ranges as make sense, each held by one buffer.

        Args:
            rows: in any order, each once.
        """
        starts = self.manifest.offsets[rows]
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], (starts + self.manifest.sizes[rows])[order]
        gaps = np.flatnonzero(starts[1:] - stops[:-1] > GAP) + 1
        for first, last in itertools.pairwise([0, *gaps.tolist(), len(rows)]):
            for begin, end in windows(starts[first:last].tolist(), stops[first:last].tolist(), WINDOW):
                these = slice(first + begin, first + end)
                size = int(stops[these].max() - starts[these][0])
                yield Request(size, rows[order[these]], partial(self._range, rows[order[these]]))

    def _range(self, rows: Rows) -> BufferShard:
        offsets = self.manifest.offsets[rows]
        base, end = int(offsets.min()), int((offsets + self.manifest.sizes[rows]).max())
        shard = BufferShard(self.url, self._file.fetch(base, end), self.manifest, base=base)
        if self._check:
            try:
                check_rows(shard, rows)
            except IntegrityError:
                shard = BufferShard(self.url, self._file.fetch(base, end), self.manifest, base=base)
                check_rows(shard, rows)
        return shard
