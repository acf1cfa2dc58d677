"""Copying datasets from place to place: the bytes of shards and manifests as they are, the commit record last.

Every file is hashed on its way and comes to the destination under its recorded digest or not at all. What a copy that
was interrupted left there is hashed, too, and only kept when it is right.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from atdata.errors import (
    AtdataError,
    DatasetNotFoundError,
    IntegrityError,
    ShardFormatError,
    StoreError,
    UnsafeNameError,
)
from atdata.samples.schema import Schema
from atdata.shards.compression import open_archive
from atdata.shards.grouping import group
from atdata.shards.manifest import Manifest, header_name, manifest_name
from atdata.shards.manifest_file import read_manifest, to_header
from atdata.shards.tar import StreamSource, walk
from atdata.stores.base import DataStore, StoredObject, Transaction, check_prefix
from atdata.stores.disk import LocalDiskStore
from atdata.stores.flight import Stop, in_flight
from atdata.stores.hashing import Hashing
from atdata.stores.http import public_url
from atdata.stores.objects import ObjectStore
from atdata.stores.opening import Opening
from atdata.stores.record import CommitRecord, ManifestInfo, ShardInfo

__all__ = ["Copied", "CopyProgress", "Original", "Originals", "copy_dataset"]

_FILES = 16  # shards under way
_BUDGET = 128 << 20  # bytes of memory
_FETCHED = 56 << 20  # that a large object takes while it is read: several ranges at once
_UPLOADED = 56 << 20  # and while it is written: several parts at once
_OTHERS = 16 << 20  # that any other large file takes
_SHARD_NAME = re.compile(r"[^/\\\0]{1,251}\.tar")


T = TypeVar("T")


class Original(Protocol):
    """A shard that can be copied, and what its commit record says of it, if there is one."""

    @property
    def url(self) -> str:
        """Where it lies."""

    @property
    def info(self) -> ShardInfo | None:
        """Size, number of samples and digests."""

    @property
    def digest(self) -> str | None:
        """The SHA-256 that it has to have, where that is known."""


class Originals(Protocol):
    """What can be copied: shards and the schema that all of them have. The `located` of a `Dataset` is one."""

    @property
    def shards(self) -> Sequence[Original]:
        """The shards, in order."""

    @property
    def schema(self) -> Schema | None:
        """The stored schema; None where there is none, or not the same for all."""


class CopyProgress(NamedTuple):
    """How far a copy is.

    Attributes:
        bytes: that are at the destination, also those an earlier copy left there.
        total: bytes of all files; None where that is not recorded.
        shards: that are whole at the destination.
    """

    bytes: int
    total: int | None
    shards: int


class Copied(NamedTuple):
    """What was copied.

    Attributes:
        urls: of the shards at the destination, in order.
        record: the commit record there; None where the files are no dataset.
        bytes: of all files, those that were there already included.
        kept: how many files an interrupted copy had left, which were right.
    """

    urls: list[str]
    record: CommitRecord | None
    bytes: int
    kept: int


def copy_dataset(
    source: Originals,
    store: DataStore,
    *,
    prefix: str,
    opening: Opening | None = None,
    overwrite: bool = False,
    progress: Callable[[CopyProgress], None] | None = None,
) -> Copied:
    """Copy shards with their manifests, unchanged, to `prefix` of a store, and commit them as one dataset.

    The destination is a dataset only when all of it is there. A copy that fails or is interrupted leaves its finished
    files out of sight; the same call goes on with those that have the right size and digest. Names are kept; shards
    that have the same name in different folders are numbered in their order.

    Shards without a commit record get one, of what was counted and hashed on the way. Only files that no record can
    name, such as compressed archives, are copied as they are, and are no dataset then.

    Args:
        source: the shards, for example `atdata.Dataset("s3://bucket/training/v1/").located`.
        store: where they are copied to.
        prefix: path under the store's root, `/` between parts.
        opening: how the shards' URLs are opened; by default by what they are, with the usual credentials.
        overwrite: replace a dataset that is there.
        progress: called after every few megabytes, from one thread at a time.

    Raises:
        DatasetExistsError: there is a dataset (or files that would be overwritten) at `prefix`.
        StoreBusyError: another writer is at work on `prefix`.
        IntegrityError: a file's bytes are not those that were written, also when they are read once more.
        ShardFormatError: a shard that no record speaks for is no proper archive.
        UnsafeNameError: `prefix` or the name of a shard cannot be used.
        StoreError: source and destination are the same, or bytes could not be read or stored.

    Example:
        >>> found = atdata.Dataset("s3://bucket/training/v1/").located  # doctest: +SKIP
        >>> copy_dataset(found, atdata.LocalDiskStore("/data"), prefix="training/v1")  # doctest: +SKIP
    """
    opening = opening or Opening()
    prefix = check_prefix(prefix)
    names = _names(source.shards, opening)
    for name in names:
        check_prefix(f"{prefix}/{name}")
    _refuse_itself(source.shards, opening, store, prefix)
    files = [name for shard in names for name in (shard, manifest_name(shard), header_name(shard)) if name is not None]
    transaction = store.resume(prefix, frozenset(files), overwrite=overwrite)
    uploaded = _UPLOADED if isinstance(store, ObjectStore) else 0
    work = _Work(source, names, opening, transaction, uploaded, progress)
    left = True
    try:
        # What an earlier copy left stays as good as it was where this one fails before it came to look at it.
        left = any(transaction.left(name) is not None for name in files)
        infos = work.run()
        known = [info for info in infos if info is not None]
        record = CommitRecord(source.schema, tuple(known)) if len(known) == len(infos) else None
        if record is not None:
            record = transaction.fitted(record)
        written = transaction.commit(record)
    except BaseException as error:
        if work.checked:
            error.add_note(f"{work.checked} files are copied and right; the same copy, begun again, goes on from there")
        if work.checked or left:
            transaction.suspend()
        else:
            transaction.abort()
        raise
    if record is None:  # what was made is named by its files, in no order
        there = {url.rpartition("/")[2]: url for url in written}
        written = [there[name] for name in names]
    return Copied(written, record, work.done, work.kept)


def _names(shards: Sequence[Original], opening: Opening) -> list[str]:
    """The shards' names at the destination."""
    names: list[str] = []
    for shard in shards:
        address = opening.address(shard.url)
        if address.lower().startswith(("http://", "https://")):
            address = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
        name = address.rpartition("/")[2] if shard.info is None else shard.info.name
        if address.startswith("at://") and not _SHARD_NAME.fullmatch(name):  # blobs have no names
            name = f"shard-{len(names):06d}.tar"
        names.append(name)
    if len(set(names)) == len(names):
        return names
    if not all(map(_SHARD_NAME.fullmatch, names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise UnsafeNameError(f"two of the files have the name {twice!r}: copy each folder to a place of its own")
    return [f"shard-{number:06d}.tar" for number in range(len(names))]


def _refuse_itself(shards: Sequence[Original], opening: Opening, store: DataStore, prefix: str) -> None:
    """Refuse to copy what lies at the destination."""
    for url in {shard.url.rpartition("/")[0]: shard.url for shard in shards}.values():
        path = opening.path(url)
        if path is not None and isinstance(store, LocalDiskStore):
            there = store.root / prefix
            same = there.exists() and path.parent.exists() and path.parent.samefile(there)
        else:
            folder = url.rpartition("/")[0]
            known = opening.store in (None, store)
            same = isinstance(store, ObjectStore) and known and folder == store.base + prefix
        if same:
            raise StoreError(
                "source and destination are the same place; nothing was changed", url=public_url(url.rpartition("/")[0])
            )


class _Work:
    """One copy under way.

    Attributes:
        done: bytes at the destination.
        checked: files at the destination whose digest was known and is right.
        kept: those of them that were there before.
    """

    def __init__(
        self,
        source: Originals,
        names: list[str],
        opening: Opening,
        transaction: Transaction,
        uploaded: int,
        progress: Callable[[CopyProgress], None] | None,
    ) -> None:
        self._source = source
        self._names = names
        self._opening = opening
        self._transaction = transaction
        self._uploaded = uploaded
        self._progress = progress
        infos = [shard.info for shard in source.shards]
        self._total = sum(map(_size, infos)) if None not in infos else None
        self._stop = Stop()
        self._lock = threading.Lock()
        self._shards = 0
        self.done = self.checked = self.kept = 0

    def run(self) -> list[ShardInfo | None]:
        """Copy everything; what a record says of each shard, None for those that no record can name."""
        jobs = (
            (self._memory(shard), partial(self._shard, shard, name))
            for shard, name in zip(self._source.shards, self._names, strict=True)
        )
        return list(in_flight(jobs, self._stop, most=_FILES, budget=_BUDGET))

    def _memory(self, shard: Original) -> int:
        """Bytes of memory that a shard takes on its way."""
        most = self._uploaded + (_FETCHED if self._opening.object_store(shard.url) is not None else _OTHERS)
        return min(most, 2 * shard.info.size) if shard.info is not None else most

    def _report(self, size: int, shards: int = 0) -> None:
        with self._lock:
            self.done += size
            self._shards += shards
            if self._progress is not None:
                self._progress(CopyProgress(self.done, self._total, self._shards))

    def _shard(self, shard: Original, name: str) -> ShardInfo | None:
        info: ShardInfo | None = None
        if shard.info is not None:
            info = self._recorded(shard.url, name, shard.info)
        elif _SHARD_NAME.fullmatch(name):
            info = self._unrecorded(shard.url, name, shard.digest)
        else:
            self._twice(lambda: self._through(shard.url, name, shard.digest, None))
        self._report(0, shards=1)
        return info

    def _recorded(self, url: str, name: str, info: ShardInfo) -> ShardInfo:
        self._file(url, name, info.size, info.sha256)
        beside = self._opening.manifest(url, info)
        if info.manifest is None or beside is None:  # a signed URL says nothing of what lies beside it
            return msgspec.structs.replace(info, name=name, manifest=None)
        written = info.manifest
        self._file(beside, _parquet(name), written.size, written.sha256)
        self._header(url, name, info, lambda: self._twice(lambda: self._manifest(beside, written)))
        return msgspec.structs.replace(info, name=name)

    def _unrecorded(self, url: str, name: str, digest: str | None) -> ShardInfo:
        """A shard of which nobody says what it should be, but perhaps its digest, or a manifest."""
        beside = None if digest is not None else self._beside(url, manifest_name(url.rpartition("/")[2]))
        data = self._steady(beside)
        manifest = read_manifest(data, url=beside) if data is not None else None
        expected = digest if manifest is None else manifest.shard_sha256
        size, sha256, samples = self._twice(lambda: self._through(url, name, expected, _count))
        info = ShardInfo(name, size, samples, sha256)
        if manifest is None or data is None:
            return info
        if len(manifest) != samples:
            raise IntegrityError(
                f"the manifest has {len(manifest)} samples, its shard {samples}", url=beside, expected=samples
            )
        self._put(_parquet(name), data)
        info = msgspec.structs.replace(info, manifest=ManifestInfo(len(data), hashlib.sha256(data).hexdigest()))
        self._header(url, name, info, lambda: manifest)
        return info

    def _beside(self, url: str, name: str | None) -> str | None:
        return None if name is None else self._opening.beside(url, name)

    # -- one file ----------------------------------------------------------------------------------------------

    def _file(self, url: str, name: str, size: int, sha256: str) -> None:
        """A file of which size and digest are known, unless it is there already."""
        there = self._transaction.left(name)
        if there is not None and there.size == size and (there.sha256 or self._hashed(there)) == sha256:
            with self._lock:
                self._transaction.keep(name)
                self.kept += 1
            self._report(size)
        else:
            self._twice(lambda: self._through(url, name, sha256, None, size))
        with self._lock:
            self.checked += 1

    def _hashed(self, file: StoredObject) -> str:
        with Hashing(file, lambda _: self._stop.check()) as hashing:
            return hashing.finish()

    def _twice(self, copy: Callable[[], T]) -> T:
        """What was damaged on the way comes right when it is fetched again."""
        try:
            return copy()
        except (IntegrityError, ShardFormatError):
            return copy()

    def _through(
        self,
        url: str,
        name: str,
        expected: str | None,
        count: Callable[[Hashing], int] | None,
        size: int | None = None,
    ) -> tuple[int, str, int]:
        """Copy a file; its size, SHA-256, and what `count` made of it."""
        file = self._opening.open(url, size)
        if size is not None and file.size != size:
            raise IntegrityError(
                f"the file has {file.size} bytes, its record {size}: it was cut, changed or replaced",
                url=public_url(url),
                expected=size,
                got=file.size,
            )
        with self._lock:
            sink = self._transaction.create(name)
        passed = 0

        def write(chunk: memoryview) -> None:
            nonlocal passed
            self._stop.check()
            sink.write(bytes(chunk))
            passed += len(chunk)
            self._report(len(chunk))

        try:
            with Hashing(file, write) as hashing:
                counted = count(hashing) if count is not None else 0
                sha256 = hashing.finish()
            if expected not in (None, sha256):
                raise IntegrityError(
                    "the file's bytes are not those that were written (SHA-256 differs), also when read again: it is "
                    "damaged at the source, and was not copied",
                    url=public_url(url),
                    expected=expected,
                    got=sha256,
                )
            sink.close()
        except BaseException as error:
            sink.abort()
            self._report(-passed)
            if isinstance(error, AtdataError):
                error.at(url=public_url(url))
            raise
        return file.size, sha256, counted

    def _put(self, name: str, data: bytes) -> None:
        with self._lock:
            sink = self._transaction.create(name)
        try:
            sink.write(data)
            sink.close()
        except BaseException:
            sink.abort()
            raise

    def _steady(self, url: str | None) -> bytes | None:
        """A small file that nobody knows the digest of, once it comes twice the same; None when there is none."""
        if url is None:
            return None
        data = self._opening.read(url)
        if data is None or self._opening.path(url) is not None:
            return data
        for _ in range(3):
            again = self._opening.read(url)
            if again == data:
                return data
            data = again
        raise IntegrityError("the file comes with other bytes each time it is read", url=public_url(url))

    def _header(self, url: str, name: str, info: ShardInfo, manifest: Callable[[], Manifest | None]) -> None:
        """The JSON header that other tools read: the original, or a new one where that is missing or another's."""
        data = self._steady(self._beside(url, header_name(url.rpartition("/")[2])))
        try:
            document = json.loads(data or b"")
            own = [document[key] for key in ("num_samples", "shard_size", "shard_sha256", "shard_id")]
        except (ValueError, KeyError, TypeError, RecursionError):
            own = []
        if own != [info.samples, info.size, info.sha256, name.removesuffix(".tar")]:
            found, schema = manifest(), self._source.schema
            if found is None:
                return
            kind, version = ("DictSample", "1.0.0") if schema is None else (schema.name, schema.version)
            data = to_header(found, shard_id=name.removesuffix(".tar"), schema_type=kind, schema_version=version)
        assert data is not None
        self._put(header_name(name), data)

    def _manifest(self, url: str, info: ManifestInfo) -> Manifest | None:
        data = self._opening.read(url)
        if data is None:
            raise DatasetNotFoundError("the manifest of a shard is not there, though its record names it", url=url)
        got = hashlib.sha256(data).hexdigest()
        if got != info.sha256:
            raise IntegrityError(
                "the manifest is not the one that was written (SHA-256 differs)", url=url, expected=info.sha256, got=got
            )
        return read_manifest(data, url=url)


def _count(hashing: Hashing) -> int:
    """The number of samples in an archive."""
    return sum(1 for _ in group(walk(StreamSource(open_archive(hashing.reader())))))


def _size(info: ShardInfo | None) -> int:
    """Bytes of a shard with its manifest."""
    if info is None:
        return 0
    return info.size + (info.manifest.size if info.manifest is not None else 0)


def _parquet(name: str) -> str:
    """The name of the manifest beside a plain tar."""
    found = manifest_name(name)
    assert found is not None
    return found
