"""From what an entry of the network says of its shards to where they lie and what they have to be.

An entry may come from anyone. It may name https, s3 and at:// only; patterns are spelled out up to a limit; what two of
its parts say of one shard has to agree; and of what has a digest nothing is left unchecked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from atdata.atmosphere.guard import check_url
from atdata.atmosphere.records import Commit, Entry
from atdata.atmosphere.storage import (
    Checksum,
    StorageBlobs,
    StorageCommit,
    StorageExternal,
    StorageHttp,
    StorageS3,
)
from atdata.atmosphere.syntax import is_did, shown
from atdata.cid import Link
from atdata.datasets.sources import Located, ShardRef, expand_braces
from atdata.errors import CommitRecordError, RecordError, UnsafeNameError, UnsafeUrlError
from atdata.stores.record import CommitRecord, ShardInfo

__all__ = ["Bucket", "Found", "file_name", "find", "read_commit"]

_MAX_SHARDS = 100_000
_MAX_RECORD = 64 << 20  # bytes of a commit record


class Bucket(NamedTuple):
    """Where a bucket is; the endpoint is None for Amazon's own."""

    endpoint: str | None
    region: str | None


class Found(NamedTuple):
    """Where the shards of an entry lie.

    Attributes:
        located: the shards, with the schema where the entry has it.
        buckets: where the buckets are that it names.
        unchecked: digests that this atdata cannot check, by their algorithms.
    """

    located: Located
    buckets: Mapping[str, Bucket]
    unchecked: frozenset[str] = frozenset()


class _Shard(NamedTuple):
    url: str
    checksum: Checksum | None = None


def find(
    entry: Entry, did: str, *, allow_private: bool, record: Callable[[Commit], CommitRecord] | None = None
) -> Found:
    """Where the shards of an entry lie, and what they have to be.

    Args:
        entry: as anyone may have written it.
        did: the account whose entry it is.
        allow_private: whether URLs may be plain http.
        record: gives the commit record of an entry that has one.

    Raises:
        RecordError: the entry contradicts itself, or has too many shards.
        UnsafeUrlError: it names a place that is not opened.
    """
    commit = None if entry.commit is None or record is None else record(entry.commit)
    buckets: dict[str, Bucket] = {}
    shards = list(_shards(entry, did, commit, buckets, allow_private))
    infos: list[ShardInfo | None] = [None] * len(shards) if commit is None else list(commit.shards)
    if len(infos) != len(shards):
        raise RecordError(
            f"has {len(shards)} shards in its storage, and {len(infos)} in its commit record", field="entry.storage"
        )
    refs, unchecked = [], set()
    for n, (shard, info) in enumerate(zip(shards, infos, strict=True)):
        known = None if shard.checksum is None else shard.checksum.sha256
        if shard.checksum is not None and known is None and info is None:
            unchecked.add(shard.checksum.algorithm)
        if info is not None and known not in (None, info.sha256):
            raise RecordError(
                f"says of shard {n} that its SHA-256 is {known}, and in the commit record that it is {info.sha256}",
                field="entry.storage",
            )
        refs.append(ShardRef(shard.url, info, None if info is not None else known))
    schema = None if commit is None else commit.schema
    return Found(Located(tuple(refs), schema, commit), buckets, frozenset(unchecked))


def read_commit(commit: Commit, blobs: Callable[[str, int], bytes], *, url: str) -> CommitRecord:
    """The commit record of an entry, checked against what the entry says of it.

    Args:
        commit: of the entry.
        blobs: gives the bytes of a blob of the entry's account, by CID and size.
        url: the entry, for errors.

    Raises:
        CommitRecordError: it is not the one that the entry was signed with.
    """
    data = commit.record
    if data is None:
        total = sum(blob.size or 0 for blob in commit.blobs)
        if total > _MAX_RECORD:
            raise CommitRecordError(
                f"the commit record has {total} bytes, and at most {_MAX_RECORD} are read of one", url=url
            )
        data = b"".join(blobs(blob.cid, blob.size or _MAX_RECORD) for blob in commit.blobs)
    if hashlib.sha256(data).hexdigest() != commit.sha256:
        raise CommitRecordError("the commit record is not the one of this entry (SHA-256 differs)", url=url)
    record = CommitRecord.from_bytes(data, url=url)
    if record.cid != commit.cid:
        raise CommitRecordError("the commit record is of other content than its entry says", url=url)
    return record


def file_name(name: str) -> str:
    """The file that a shard's name in a commit record stands for: `~1` and the like only tell names apart.

    Example:
        >>> file_name("shard-000000~2.tar"), file_name("shard-000000.tar")
        ('shard-000000.tar', 'shard-000000.tar')
    """
    stem = name.removesuffix(".tar")
    start, mark, number = stem.rpartition("~")
    return f"{start}.tar" if mark and number.isascii() and number.isdigit() and stem != name else name


def _shards(
    entry: Entry, did: str, commit: CommitRecord | None, buckets: dict[str, Bucket], allow_private: bool
) -> Iterator[_Shard]:
    """The shards in order; `buckets` is filled with the buckets that are named."""
    storage = entry.storage
    if isinstance(storage, StorageBlobs):
        for blob, _ in storage.blobs:
            yield _Shard(f"at://{did}/blob/{blob.cid}", Checksum("sha256", blob.sha256))
    elif isinstance(storage, StorageS3):
        _note(buckets, storage.bucket, Bucket(storage.endpoint, storage.region))
        for key, checksum in storage.shards:
            yield _Shard(f"s3://{storage.bucket}/{_key(key)}", checksum)
    elif isinstance(storage, StorageCommit):
        yield from _in_folders(storage, commit, buckets, allow_private)
    else:
        pairs = storage.shards if isinstance(storage, StorageHttp) else ((url, None) for url in storage.urls)
        count = 0
        for url, checksum in pairs:
            spelled = _spelled(url, isinstance(storage, StorageExternal) or checksum is None)
            count += len(spelled)
            if count > _MAX_SHARDS:
                raise RecordError(f"has more than {_MAX_SHARDS:,} shards", field="entry.storage")
            for each in spelled:
                yield _Shard(_allowed(each, allow_private), checksum)


def _in_folders(
    storage: StorageCommit, commit: CommitRecord | None, buckets: dict[str, Bucket], allow_private: bool
) -> Iterator[_Shard]:
    if commit is None:
        raise RecordError("lists its shards in a commit record, and has none", field="entry.storage")
    infos = iter(commit.shards)
    for folder in storage.folders:
        blobs_of = _blob_folder(folder.url)
        if folder.url.startswith("s3://"):
            bucket = folder.url.removeprefix("s3://").partition("/")[0]
            _note(buckets, bucket, Bucket(folder.endpoint, folder.region))
        for _ in range(min(folder.shards, len(commit.shards) + 1)):
            info = next(infos, None)
            if info is None:
                raise RecordError(
                    f"has more shards in its folders than the {len(commit.shards)} of its commit record",
                    field="entry.storage",
                )
            if blobs_of is not None:
                yield _Shard(f"at://{blobs_of}/blob/{Link.to_sha256(info.sha256)}")
            else:
                yield _Shard(_allowed(folder.url + (folder.file or file_name(info.name)), allow_private))


def _blob_folder(url: str) -> str | None:
    """The account whose blobs lie in a folder `at://DID/blob/`; None for other folders."""
    if not url.startswith("at://"):
        return None
    did, _, rest = url.removeprefix("at://").partition("/")
    if not is_did(did) or rest != "blob/":
        raise UnsafeUrlError(f"{shown(url)} is no place of blobs: that is at://DID/blob/")
    return did


def _note(buckets: dict[str, Bucket], name: str, place: Bucket) -> None:
    if buckets.setdefault(name, place) != place:
        raise RecordError(f"names two places of the bucket {shown(name)}", field="entry.storage")


def _spelled(url: str, pattern: bool) -> list[str]:
    """The URLs that one in a record means: itself, or what its braces stand for."""
    if "{" not in url:
        return [url]
    if not pattern:
        raise RecordError(f"{shown(url)} means several shards, and has one digest", field="entry.storage")
    try:
        return expand_braces(url, _MAX_SHARDS)
    except UnsafeNameError as error:
        raise RecordError(f"{shown(url)}: {error.message}", field="entry.storage") from None


def _key(key: str) -> str:
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise RecordError(f"{shown(key)} is no key of a shard", field="entry.storage")
    return key


def _allowed(url: str, allow_private: bool) -> str:
    """A URL that a record may name.

    Raises:
        UnsafeUrlError: it is a path, a command, or of another kind; or it makes no sense.
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        raise UnsafeUrlError(
            f"the entry names {shown(url)}, which means nothing to anybody but its author: it is not opened"
        )
    if scheme == "s3":
        bucket, slash, key = rest.partition("/")
        if not bucket or not slash or "@" in bucket or "?" in url or "#" in url:
            raise UnsafeUrlError(f"the entry names {shown(url)}, which is not opened: it is not s3://BUCKET/KEY")
        _key(key)
        return url
    if scheme not in ("http", "https"):
        raise UnsafeUrlError(
            f"the entry names {shown(url)}: entries on the network may have https, s3 and at:// opened, nothing else"
        )
    check_url(url, allow_private=allow_private)
    if any(part in (".", "..") for part in urlsplit(url).path.split("/")):
        raise UnsafeUrlError(f"the entry names {shown(url)}, whose path has dot parts: it is not opened")
    return url
