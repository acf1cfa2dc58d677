"""Shards that lie far away: windows of whole samples, each one range, checked as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from atdata.datasets.checks import check_rows
from atdata.errors import IntegrityError
from atdata.shards.grouping import RawSample
from atdata.shards.manifest import Manifest
from atdata.shards.reader import BufferShard, Shard
from atdata.stores.base import StoredObject
from atdata.stores.ranges import windows

__all__ = ["RemoteShard"]

_WINDOW = 8 << 20  # bytes of one range: long enough for a connection to reach its speed


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
        for first, last in windows(offsets.tolist(), ends.tolist(), _WINDOW):
            yield start + first, start + last

    def span(self, start: int, stop: int) -> int:
        """Bytes to fetch for the samples from `start` up to `stop`."""
        return int(self.manifest.offsets[stop - 1] + self.manifest.sizes[stop - 1] - self.manifest.offsets[start])

    def window(self, start: int, stop: int) -> BufferShard:
        """The samples from `start` up to `stop`, fetched and checked; what does not match is fetched once more.

        Raises:
            IntegrityError: a sample's bytes are not those that were written.
        """
        base = int(self.manifest.offsets[start])
        end = base + self.span(start, stop)
        shard = BufferShard(self.url, self._file.fetch(base, end), self.manifest, base=base)
        if self._check:
            try:
                check_rows(shard, start, stop)
            except IntegrityError:
                shard = BufferShard(self.url, self._file.fetch(base, end), self.manifest, base=base)
                check_rows(shard, start, stop)
        return shard
