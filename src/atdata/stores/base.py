"""What a data store promises, and the machinery that ours share."""

from __future__ import annotations

import abc
import io
import re
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

from atdata.errors import UnsafeNameError
from atdata.stores.record import CommitRecord, ShardInfo

if TYPE_CHECKING:
    from atdata.stores.cache import Cache

__all__ = [
    "AbstractDataStore",
    "DataStore",
    "SampleSource",
    "Sink",
    "StoredObject",
    "Transaction",
    "WrittenShards",
    "check_prefix",
]

MAXCOUNT = 10_000
MAXSIZE = 256 << 20
_STRETCH = 8 << 20


@runtime_checkable
class AbstractDataStore(Protocol):
    """The whole public contract of a data store: a class with these three methods works everywhere."""

    def write_shards(self, ds: Any, *, prefix: str, **kwargs: Any) -> list[str]:
        """Write a dataset's samples as shards under `prefix`; returns their URLs in order."""

    def read_url(self, url: str) -> str:
        """What plain `webdataset.WebDataset(...)` can open by itself: a path or an https URL."""

    def supports_streaming(self) -> bool:
        """Whether the bytes behind `read_url` can be used as they arrive."""


class SampleSource(Protocol):
    """What can be written: samples of one type with their keys. Every `Dataset` is one."""

    @property
    def sample_type(self) -> type:
        """The class of the samples."""

    def keyed(self) -> Iterator[tuple[str | None, Any]]:
        """Key and sample, in order; key None where the store shall number it."""

    def known_length(self) -> int | None:
        """The number of samples when it is known without reading them."""


class WrittenShards(list[str]):
    """The URLs of written shards, in order, with what is known of each.

    Attributes:
        record: the commit record: schema, content identifier, and size, sample count and SHA-256 of each shard.
    """

    def __init__(self, urls: Sequence[str], record: CommitRecord) -> None:
        super().__init__(urls)
        self.record = record

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """Size, number of samples and SHA-256 of each shard."""
        return self.record.shards

    def __reduce__(self) -> tuple[Any, ...]:
        return (WrittenShards, (list(self), self.record))


class Sink(abc.ABC):
    """A new object, which exists whole or not at all.

    Attributes:
        sha256: the digest of what was written, in hex, where the sink takes it by itself; good when it is closed.
    """

    sha256: str | None = None

    @abc.abstractmethod
    def write(self, data: bytes) -> None:
        """Append bytes."""

    @abc.abstractmethod
    def close(self) -> None:
        """Say that these are all bytes: the object is part of the transaction, and durable before `commit` returns."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Throw the bytes away; does nothing after `close`."""


class Transaction(abc.ABC):
    """One writer's work under one prefix: nothing of it is a dataset before `commit` returns."""

    @abc.abstractmethod
    def create(self, name: str) -> Sink:
        """A sink for a new object `name` under the prefix."""

    def left(self, name: str) -> StoredObject | None:
        """What an unfinished write left under one of the names to be resumed; None when there is nothing."""
        return None

    def keep(self, name: str) -> None:
        """Take what `left` gave into this transaction, as it is."""
        raise AssertionError(f"nothing was left under {name!r}")

    def fitted(self, record: CommitRecord) -> CommitRecord:
        """The form in which a record is committed here: as it is, or without statistics where it would be too long."""
        return record

    @abc.abstractmethod
    def commit(self, record: CommitRecord | None) -> list[str]:
        """Make everything written the dataset at the prefix, atomically; returns the shards' URLs.

        Without a record the objects come to their names one by one and are no dataset; returns the URLs of all.
        """

    @abc.abstractmethod
    def abort(self) -> None:
        """Leave the prefix as it was before."""

    def suspend(self) -> None:
        """Give up for now, and leave what was made, out of sight, for a writer that resumes."""
        self.abort()

    def fail(self, error: BaseException) -> None:
        """Give up because of an error: `abort`, or `suspend` where the same write can go on from there later."""
        self.abort()


class StoredObject(abc.ABC):
    """An object open for reading.

    Attributes:
        url: where it lies.
        size: its length in bytes.
        sha256: its digest, in hex, where its URL tells that.
        cache: where it is kept, when it can only be had as a whole.
    """

    url: str
    size: int
    sha256: str | None = None
    cache: Cache | None = None

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`; exactly that many, or an error."""

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of several ranges, in the order asked for."""
        return [self.read(start, stop) for start, stop in ranges]

    def fetch(self, start: int, stop: int) -> memoryview:
        """The same as `read`; without a copy, where that can be had."""
        return memoryview(self.read(start, stop))

    def chunks(self) -> Iterator[memoryview]:
        """The object from the beginning, in stretches of some megabytes."""
        for start in range(0, self.size, _STRETCH):
            yield self.fetch(start, min(start + _STRETCH, self.size))

    def stream(self) -> IO[bytes]:
        """The bytes from the beginning, as they arrive."""
        return io.BufferedReader(_ChunkReader(self.chunks()), 1 << 20)


class _ChunkReader(io.RawIOBase):
    """A readable stream over chunks."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._chunk:
            self._chunk = next(self._chunks, memoryview(b""))
        n = min(len(buffer), len(self._chunk))
        buffer[:n] = self._chunk[:n]
        self._chunk = self._chunk[n:]
        return n

    def close(self) -> None:
        if isinstance(self._chunks, Generator):
            self._chunks.close()
        super().close()


class DataStore(abc.ABC):
    """Base of atdata's own stores: `write_shards` once, over a few primitives.

    A subclass gives `begin`, `open`, `list` and `delete`, and the two small methods of the public contract.
    """

    def write_shards(
        self,
        ds: SampleSource,
        *,
        prefix: str,
        maxcount: int = MAXCOUNT,
        maxsize: int | None = None,
        overwrite: bool = False,
        manifest: bool = True,
        progress: bool | None = None,
    ) -> WrittenShards:
        """Write the samples of `ds` as shards `{prefix}/shard-000000.tar`, … and commit them as one dataset.

        Either the whole dataset is there afterwards or the prefix is as it was, also when the process is killed.
        Samples are taken one at a time; memory stays bounded whatever the dataset's size.

        Args:
            ds: a `Dataset`, after its steps; keys are kept, and samples without one are numbered.
            prefix: path under the store's root, `/` between parts.
            maxcount: most samples in one shard.
            maxsize: most bytes in one shard file, by default 256 MiB, or as many as the store takes in one object; only
                a single sample that is larger by itself exceeds it.
            overwrite: replace a dataset that is there; without it that is an error.
            manifest: also write the manifest beside each shard that makes reading fast.
            progress: show samples, rate and time left on the terminal (nothing where stderr is none).

        Returns:
            The shards' URLs, a list that also has their sizes, counts and digests.

        Raises:
            DatasetExistsError: there is a dataset (or files that would be overwritten) at `prefix`.
            StoreBusyError: another writer is at work on `prefix`.
            EmptyDatasetError: `ds` gave no sample.
            SampleTypeError: a sample does not fit its type; the message names sample and field.
            UnsafeNameError: `prefix` or a key cannot be used.
            StoreError: the bytes could not be stored (a full disk, a lost connection, a sample that is too large for
                this store).
        """
        from atdata.stores.write import write_shards

        return write_shards(
            self,
            ds,
            prefix=check_prefix(prefix),
            maxcount=maxcount,
            maxsize=self.shard_size if maxsize is None else maxsize,
            overwrite=overwrite,
            manifest=manifest,
            progress=bool(progress),
        )

    @property
    def largest(self) -> int | None:
        """Most bytes of one object; None where there is no such limit."""
        return None

    @property
    def shard_size(self) -> int:
        """Most bytes of one shard where `write_shards` is told nothing else."""
        return MAXSIZE if self.largest is None else min(MAXSIZE, self.largest)

    @abc.abstractmethod
    def read_url(self, url: str) -> str:
        """What plain `webdataset.WebDataset(...)` can open by itself."""

    @abc.abstractmethod
    def supports_streaming(self) -> bool:
        """Whether the bytes behind `read_url` can be used as they arrive."""

    @abc.abstractmethod
    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Start writing under `prefix`."""

    def resume(self, prefix: str, names: Collection[str], *, overwrite: bool) -> Transaction:
        """Start writing objects of these names under `prefix`, with what an unfinished write left of them."""
        return self.begin(prefix, overwrite=overwrite)

    @abc.abstractmethod
    def open(self, url: str) -> StoredObject:
        """Open the object at `url` (as `write_shards` and `list` give it) for reading.

        Raises:
            DatasetNotFoundError: there is none.
        """

    def open_sized(self, url: str, size: int | None) -> StoredObject:
        """The same, where the object's size may be known, so that nobody has to be asked for it."""
        return self.open(url)

    @abc.abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """URLs of the objects under `prefix`, sorted; nothing of unfinished writes."""

    @abc.abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove the dataset at `prefix`: its record first, then its files; nothing else there is touched.

        Raises:
            DatasetNotFoundError: there is no dataset.
            StoreBusyError: a writer is at work on it.
        """


# Control characters and backslashes; and what webdataset and URLs read as something else than a name.
_BAD = re.compile(r"[\0-\x1f\x7f\\{}#?]|::")


def check_prefix(prefix: str) -> str:
    """`prefix` without a trailing slash.

    Raises:
        UnsafeNameError: it is empty or absolute, has empty or dot parts, control characters, backslashes, or one of
            `{ } # ? ::`, which readers of shard URLs take for more than a name.
    """
    clean = prefix.removesuffix("/")
    parts = clean.split("/")
    if (
        not clean
        or len(clean.encode("utf-8", "surrogatepass")) > 900
        or any(
            p in ("", ".", "..") or p.startswith(".atdata") or len(p.encode("utf-8", "replace")) > 255 for p in parts
        )
        or _BAD.search(clean)
        or any(0xD800 <= ord(c) <= 0xDFFF for c in clean)
    ):
        raise UnsafeNameError(
            f"the prefix {prefix!r} cannot be used: give a relative path such as 'training/v1', without '..', empty "
            "parts, backslashes, control characters or any of { } # ? ::"
        )
    return clean
