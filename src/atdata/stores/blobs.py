"""Blobs of accounts on the AT Protocol, for reading: `at://did/blob/cid`.

The CID names the content, so a blob is checked by its own URL. Servers know no ranges of blobs: one is fetched whole,
into a cache, and read from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from atdata.cid import Link
from atdata.errors import DatasetNotFoundError, IntegrityError, StoreError, UnsafeNameError, XrpcError
from atdata.stores.base import StoredObject
from atdata.stores.cache import Cache
from atdata.stores.disk import LocalObject

if TYPE_CHECKING:
    from atdata.atmosphere.client import Atmosphere

__all__ = ["LARGEST", "BlobObject", "blob_url", "default_cache", "sha256_in", "take_apart"]

LARGEST = 512 << 20  # bytes of a blob that is read where nobody says otherwise; servers take up to some 100 MiB
_CACHE_LIMIT = 16 << 30
_SCHEME = "at://"
_TRIES = 3


def take_apart(url: str) -> tuple[str, Link] | None:
    """DID and CID of a blob's URL; None for any other text."""
    from atdata.atmosphere.syntax import is_did

    did, _, rest = url.removeprefix(_SCHEME).partition("/")
    kind, _, cid = rest.partition("/")
    if not url.startswith(_SCHEME) or kind != "blob" or not is_did(did):
        return None
    try:
        link = Link.parse(cid)
    except ValueError:
        return None
    return None if link.is_block else (did, link)


def sha256_in(url: str) -> str | None:
    """The SHA-256, in hex, of what lies at a URL, where the URL itself tells that.

    Example:
        >>> sha256_in("at://did:plc:abc/blob/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq")
        '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824'
        >>> sha256_in("s3://bucket/a.tar")
    """
    found = take_apart(url) if url.startswith(_SCHEME) else None
    return None if found is None else found[1].sha256


def blob_url(did: str, sha256: str) -> str:
    """The URL of an account's blob with that SHA-256, in hex.

    Example:
        >>> blob_url("did:plc:abc", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
        'at://did:plc:abc/blob/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq'
    """
    return f"{_SCHEME}{did}/blob/{Link.to_sha256(sha256)}"


def default_cache() -> Cache:
    """Where blobs are kept when nobody names a cache: what `ATDATA_CACHE` names, or 16 GiB in `~/.cache/atdata`."""
    named = os.environ.get("ATDATA_CACHE")
    return Cache(named) if named else Cache("~/.cache/atdata", _CACHE_LIMIT)


class BlobObject(StoredObject):
    """A blob, read out of the cache, into which it is brought once.

    Args:
        client: who asks.
        url: `at://did/blob/cid`.
        cache: where it is kept.
        size: its size in bytes when that is known already; else the cache or the server is asked.
        most: bytes of a blob that is read at all.

    Raises:
        UnsafeNameError: the URL is not that of a blob.
    """

    cache: Cache
    sha256: str

    def __init__(
        self, client: Atmosphere, url: str, cache: Cache, size: int | None = None, *, most: int = LARGEST
    ) -> None:
        found = take_apart(url)
        if found is None:
            raise UnsafeNameError("no blob has such a URL: at://DID/blob/CID", url=url[:500])
        self.url = url
        self.cache = cache
        self._client = client
        self._did, link = found
        self._cid = str(link)
        self.sha256 = link.sha256
        self._most = most
        self._size = size
        self._local: LocalObject | None = None

    @property
    def size(self) -> int:  # type: ignore[override]
        """Its length in bytes."""
        if self._size is None:
            kept = self.cache.find(self.sha256)
            self._size = kept.stat().st_size if kept is not None else self._asked()
        return self._size

    def _asked(self) -> int:
        try:
            size = self._client.blob_size(self._did, self._cid)
        except XrpcError as error:
            raise _missing(error, self.url) from None
        self._check(size)
        return size

    def _check(self, size: int) -> None:
        if size > self._most:
            raise StoreError(
                f"the blob has {size} bytes, and no more than {self._most} are read of one, as it has to be fetched "
                "whole: give a store that reads more, PDSBlobStore(client, most=…)",
                url=self.url,
            )

    def chunks(self) -> Iterator[memoryview]:
        """The blob from the beginning, out of the cache, or as it arrives; its digest is checked at the end.

        Raises:
            IntegrityError: the bytes are not those that the CID names.
            DatasetNotFoundError: there is no such blob, or none any more.
        """
        if self.cache.find(self.sha256) is not None:
            yield from self._here().chunks()
        else:
            yield from self._arriving()

    def _arriving(self) -> Iterator[memoryview]:
        if self._size is not None:
            self._check(self._size)
        chunks = self._client.blob_chunks(self._did, self._cid, limit=self._most)
        try:
            for chunk in chunks:
                yield memoryview(chunk)
        except XrpcError as error:
            raise _missing(error, self.url) from None
        except IntegrityError as error:
            error.url = self.url  # by which it is known, wherever it came from
            raise

    def fetch(self, start: int, stop: int) -> memoryview:
        """The bytes from `start` up to `stop`."""
        if start >= stop:
            return memoryview(b"")
        local = self._here()
        if stop > local.size:
            raise StoreError(f"the blob has {local.size} bytes, shorter than its record says", url=self.url)
        return local.fetch(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        return bytes(self.fetch(start, stop))

    def _here(self) -> LocalObject:
        """The file in the cache, held open: it stays readable when it has to make room there."""
        if self._local is None:
            for left in reversed(range(_TRIES)):
                path = self.cache.find(self.sha256)
                if path is not None and not self.cache.sound(self.sha256):  # damaged since it came
                    self.cache.remove(self.sha256)
                    path = None
                path = path or self.cache.add(self.sha256, self._arriving, url=self.url)
                try:
                    self._local = LocalObject(path)
                    break
                except DatasetNotFoundError:  # just made room for another
                    if not left:
                        raise
            assert self._local is not None
        return self._local

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_local": None}


def _missing(error: XrpcError, url: str) -> Exception:
    """What it means when a server does not give a blob."""
    if error.status in (404, 410) or error.error in ("BlobNotFound", "InvalidRequest") or error.status == 400:
        return DatasetNotFoundError(
            "the account's server does not have this blob: its dataset was deleted or replaced, or never finished",
            url=url,
        )
    return error
