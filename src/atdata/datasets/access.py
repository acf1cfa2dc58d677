"""The shards of a dataset in one process: kept open for a while, and single samples of them."""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from atdata.datasets import checks
from atdata.datasets.opener import Opened, Opener, Verify
from atdata.datasets.remote import RemoteShard
from atdata.datasets.selection import Places
from atdata.datasets.sources import DataSource, Located, ShardRef, is_source
from atdata.errors import IntegrityError
from atdata.forks import cached_property
from atdata.shards.manifest_columns import ManifestColumns
from atdata.shards.reader import BufferShard, Shard, StreamShard
from atdata.stores.cache import Cache
from atdata.stores.opening import Opening

__all__ = ["Access"]

T = TypeVar("T")

_OPEN = 64  # shards kept open
_LOCAL_WORKERS = min(4, os.cpu_count() or 1)
_REMOTE_WORKERS = 24  # ranges in flight: with the 2 MiB of a shuffle, what hides 30 ms of a server


class Access:
    """The shards of one dataset in one process."""

    def __init__(
        self, located: Located, source: Any, opening: Opening, verify: Verify, cache: Cache | None = None
    ) -> None:
        self.refs = located.shards
        self.schema = located.schema
        self._source: DataSource | None = source if is_source(source) else None
        self._opener = Opener(self._source, opening, verify, cache)
        self._opening = opening
        self._verify = verify
        self._cache = cache
        self._kept: OrderedDict[int, Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._counts: list[int] | None = None
        self._seen: dict[int, int] = {}
        self._paths: dict[int, str | None] = {}
        self._pid = os.getpid()

    def foreign(self) -> bool:
        """Whether this was made in another process, of which this one is a fork."""
        return self._pid != os.getpid()

    @cached_property
    def far(self) -> bool:
        """Whether any of the shards lies on a server."""
        return self._source is None and any(self._path(number) is None for number in range(len(self.refs)))

    @property
    def cached(self) -> bool:
        """Whether shards on servers are brought into a cache."""
        return all(map(self._keeps, self.refs))

    def _keeps(self, ref: ShardRef) -> bool:
        """Whether a shard, where it lies on a server, is brought into a cache."""
        return self._cache is not None or self._opening.account_store(ref.url) is not None

    @cached_property
    def asks(self) -> bool:
        """Whether what is fetched of samples may depend on what somebody asks of them."""
        return self.far and not self.cached

    @property
    def workers(self) -> int:
        """How many threads reading takes: as many as the machine has cores, or as a server has answers at a time."""
        return _REMOTE_WORKERS if self.far else _LOCAL_WORKERS

    @property
    def verifies_always(self) -> bool:
        """Whether samples are checked at every reading."""
        return self._verify == "always"

    def trusted(self, found: Opened) -> bool:
        """Whether nothing of a shard has to be checked any more: it was, or cannot be, or nobody wants that."""
        if found.expected is None or found.state is None or self._verify == "never":
            return True
        return found.checked and self._verify == "first"

    def found_good(self, number: int, found: Opened) -> Opened:
        """Take note that all of shard `number` is as it was written."""
        if found.state is not None and found.expected is not None:
            checks.remember(found.state, found.expected)
        return self._keep(number, found._replace(checked=True))

    def current(self, number: int) -> Opened:
        """Shard `number` as its file is now; opened anew when that has changed."""
        return self._recall(number) or self._opened(number, whole=False)

    def whole(self, number: int) -> Opened:
        """Shard `number`, opened anew and checked as a whole."""
        return self._opened(number, whole=True)

    def checked(self, number: int) -> Opened:
        """Shard `number`, checked as a whole unless that was done.

        Raises:
            IntegrityError: it is not as it was written.
        """
        found = self.current(number)
        if self.trusted(found):
            return found
        shard = found.shard
        if not isinstance(shard, BufferShard) or found.state is None or found.expected is None:
            return self.whole(number)
        try:
            checks.check_whole(shard.buffer, found.state, shard.manifest, found.expected)
        except IntegrityError as error:
            error.at(url=shard.url)
            raise
        return self.found_good(number, found)

    def columns(self, number: int, fields: Iterable[str]) -> ManifestColumns | None:
        """What the manifest of shard `number` says of some fields; None where there is no manifest.

        A shard that is not open stays so, unless it lies on a server and its manifest will be needed to read from it.
        """
        ref = self.refs[number]
        kept = self._recall(number)
        if kept is None and not self._keeps(ref) and self._opening.path(ref.url) is None:
            kept = self.current(number)
        if kept is not None:
            manifest = kept.shard.manifest
            return None if manifest is None else ManifestColumns.of(manifest)
        return self._opener.columns(ref, fields)

    def each(self, shards: Iterable[int], job: Callable[[int], T]) -> Generator[T, None, None]:
        """What a job gives for each of these shards, in their order; it is done for several at a time."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="atdata-each")
        try:
            yield from pool.map(job, shards)
        finally:
            pool.shutdown(cancel_futures=True)

    # -- opening ---------------------------------------------------------------------------------------------

    def _used(self, number: int) -> Opened | None:
        """Shard `number` from those kept open, marked as just used."""
        kept = self._kept.get(number)
        if kept is not None and len(self.refs) > _OPEN:  # else all stay, in whatever order
            with self._lock:
                if number in self._kept:
                    self._kept.move_to_end(number)
        return kept

    def _recall(self, number: int) -> Opened | None:
        """Shard `number` from those kept open, unless its file has become another."""
        kept = self._used(number)
        if kept is None:
            return None
        if kept.state is not None:
            path = self._path(number)
            try:  # a file of the cache is kept open, and has no other name
                if path is not None and checks.state_of(os.stat(path)) != kept.state:
                    return None
            except OSError:
                return None
        if kept.checked or kept.state is None or kept.expected is None or self._verify != "first":
            return kept
        # Sample by sample, or by another dataset, it may have been checked meanwhile.
        known = checks.is_known(kept.state, kept.expected)
        return self._keep(number, kept._replace(checked=True)) if known else kept

    def _path(self, number: int) -> str | None:
        """The local path of shard `number`; None when it lies elsewhere."""
        if number not in self._paths:
            path = self._opening.path(self.refs[number].url)
            self._paths[number] = None if path is None else str(path)
        return self._paths[number]

    @property
    def all_open(self) -> bool:
        """Whether every shard is kept open."""
        return len(self._kept) == len(self.refs)

    @property
    def settled(self) -> bool:
        """Whether every shard is kept open, lies here, and has not to be checked any more."""
        with self._lock:
            kept = list(self._kept.values())
        return len(kept) == len(self.refs) and all(isinstance(k.shard, BufferShard) and self.trusted(k) for k in kept)

    def is_open(self, number: int) -> bool:
        """Whether shard `number` is kept open."""
        return number in self._kept

    def _keep(self, number: int, found: Opened) -> Opened:
        with self._lock:
            self._kept[number] = found
            if len(self._kept) > _OPEN:
                self._kept.popitem(last=False)
        return found

    def _open(self, number: int, *, whole: bool = False) -> Opened:
        """Shard `number`, from those kept open when it is among them; as it was opened, even if its file changed."""
        kept = self._used(number)
        if kept is None or (whole and not kept.checked):
            return self._opened(number, whole=whole)
        return kept

    def _opened(self, number: int, *, whole: bool) -> Opened:
        return self._keep(number, self._opener.open(self.refs[number], whole=whole))

    # -- single samples --------------------------------------------------------------------------------------

    def counts(self) -> list[int]:
        """Number of samples up to and with each shard."""
        if self._counts is None:
            sizes = (
                ref.info.samples if ref.info is not None else len(self._open(number).shard)
                for number, ref in enumerate(self.refs)
            )
            self._counts = list(itertools.accumulate(sizes))
        return self._counts

    def count(self, number: int) -> int:
        """Number of samples of one shard."""
        counts = self._counts or self.counts()
        return counts[number] - (counts[number - 1] if number else 0)

    def sizes(self) -> list[int]:
        """Size of each shard in bytes; of one that is not recorded and can only be read through, 0."""
        return [self._size(number) if ref.info is None else ref.info.size for number, ref in enumerate(self.refs)]

    def bytes_each(self) -> int:
        """Bytes of an average stored sample."""
        return sum(self.sizes()) // max(1, self.length())

    def _size(self, number: int) -> int:
        shard = self._open(number).shard
        if shard.manifest is not None:
            return shard.manifest.shard_size
        return len(shard.buffer) if isinstance(shard, BufferShard) else 0

    @cached_property
    def seekable(self) -> bool:
        """Whether samples can be read in any order; else shards have to be read through from front to back."""
        return self._source is None and all(self._seekable(number) for number in range(len(self.refs)))

    def _seekable(self, number: int) -> bool:
        ref = self.refs[number]
        if ref.info is None and ref.sha256 is not None and self._path(number) is None:
            return False  # it would be brought whole to be counted, and so would all others
        if ref.info is None:
            return not isinstance(self._open(number).shard, StreamShard)
        # Without a manifest or a cache, a shard on a server would be brought whole for every sample.
        return ref.info.manifest is not None or self._keeps(ref) or self._path(number) is not None

    def check_count(self, number: int, count: int) -> None:
        """Shard `number` was read to its end, and gave `count` samples.

        Raises:
            IntegrityError: its record says another number.
        """
        ref = self.refs[number]
        if ref.info is not None and ref.info.samples != count:
            raise IntegrityError(
                f"the shard gave {count} samples, its record says {ref.info.samples}",
                url=ref.url,
                expected=ref.info.samples,
                got=count,
            )
        self._seen[number] = count
        if self._counts is None and len(self._seen) == len(self.refs):
            self._counts = list(itertools.accumulate(self._seen[n] for n in range(len(self.refs))))

    @property
    def streamed(self) -> bool:
        """Whether the shards come from a source, so that counting samples means to read them all."""
        return self._source is not None

    @property
    def counted(self) -> bool:
        """Whether `counts` is known already."""
        return self._counts is not None

    def length(self) -> int:
        """Number of samples in all shards."""
        counts = self._counts or self.counts()
        return counts[-1] if counts else 0

    def find(self, key: str) -> Iterator[tuple[int, int]]:
        """Shard number and row of the first sample with that key in each shard that has one."""
        for number in range(len(self.refs)):
            row = self._open(number).shard.find(key)
            if row is not None:
                yield number, row

    def shard(self, number: int, *, whole: bool = False) -> Shard:
        """Shard `number`, checked as a whole before it is given out when `whole` says so."""
        return self._open(number, whole=whole).shard

    def place(self, index: int) -> tuple[int, int]:
        """Shard number and row of the sample with that number."""
        counts = self._counts or self.counts()
        number = bisect.bisect_right(counts, index)
        return number, index - (counts[number - 1] if number else 0)

    def key(self, number: int, row: int) -> str:
        """The key of sample `row` of shard `number`."""
        return self._open(number).shard.key(row)

    def row(self, number: int, row: int, sample_type: type) -> Any:
        """Sample `row` of shard `number`, checked by its own digest where its shard was not checked as a whole."""
        found = self._open(number)
        shard = found.shard
        if isinstance(shard, RemoteShard):
            return shard.sample(sample_type, row)
        if isinstance(shard, BufferShard) and shard.manifest is not None:
            payload = shard.payload(row)
            if not found.checked:
                checks.check_payload(shard, row, payload)
            return shard.decoded(sample_type, row, payload)
        for sample in self._whole(number).samples(sample_type, row, row + 1):
            return sample
        raise IntegrityError("the shard has fewer samples than before", url=shard.url)

    def rows(self, places: Places, sample_type: type) -> Iterator[tuple[int, str, Any]]:
        """Shard number, key and sample of these places, where shards can only be read through: each once."""
        found: dict[tuple[int, int], tuple[str, Any]] = {}
        for number in np.unique(places.shards).tolist():
            wanted = set(places.rows[places.shards == number].tolist())
            first, stop = min(wanted), max(wanted) + 1
            for row, pair in enumerate(self._whole(number).keyed(sample_type, first, stop), first):
                if row in wanted:
                    found[number, row] = pair
        for number, row in zip(places.shards.tolist(), places.rows.tolist(), strict=True):
            if (number, row) not in found:
                raise IntegrityError("the shard has fewer samples than before", url=self.refs[number].url)
            yield number, *found[number, row]

    def _whole(self, number: int) -> Shard:
        """Shard `number`, checked as a whole as often as was asked for: without a manifest there is no other way."""
        kept = self._open(number)
        if self._verify == "always" and kept.state is not None:
            return self._opened(number, whole=True).shard
        if self._verify == "first" and kept.state is not None and self._rewritten(number, kept.state):
            return self._opened(number, whole=True).shard
        return self._open(number, whole=True).shard

    def _rewritten(self, number: int, state: checks.State) -> bool:
        """Whether the file was written to since it was checked; another file in its place is no change of this one."""
        path = self._opening.path(self.refs[number].url)
        try:
            now = checks.state_of(os.stat(path)) if path is not None else state
        except OSError:
            return False
        return now[:2] == state[:2] and now != state
