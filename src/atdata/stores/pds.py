"""`PDSBlobStore`: shards as blobs in an account on the AT Protocol."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from atdata.atmosphere.client import Atmosphere
from atdata.errors import AccessDeniedError, DatasetNotFoundError, LoginError, UnsafeNameError
from atdata.stores.base import DataStore, Transaction, check_prefix
from atdata.stores.blobs import LARGEST, BlobObject, blob_url, default_cache, take_apart
from atdata.stores.cache import Cache
from atdata.stores.pins import PIN, SERIES, File, Pin, Pins, key_of
from atdata.stores.record import RECORD_NAME, CommitRecord

__all__ = ["PDSBlobStore", "PinnedFile"]

_MOST = 1 << 30  # bytes of a blob: beyond 2 GiB servers take it and can do nothing with it
_SHARD = 52_428_800  # bytes of a blob that an entry on the network may name, by its lexicon (storageBlobs)


class PinnedFile(NamedTuple):
    """A file of a dataset in an account.

    Attributes:
        path: its prefix and name, with slashes between.
        url: where its bytes are.
        size: how many they are.
    """

    path: str
    url: str
    size: int


class PDSBlobStore(DataStore):
    """A data store in an account of the AT Protocol: shards are blobs at its server (PDS), and anybody can read them.

    The URL of a shard, `at://did/blob/cid`, says what it contains: it is checked by that alone, and the same bytes are
    there once, whatever datasets they are in. Records (`science.alt.dataset.pin`) keep the blobs, and name them.

    A server takes blobs up to a size, some 50 to 100 MB; shards are made to fit. Each is spooled in a temporary file
    and sent, four at a time, while the next are made. What a killed or failed write has sent stays out of sight in the
    account, and the same write goes on from there.

    Servers give blobs as a whole only: those that are read are kept in a cache, by their digest.

    Args:
        client: an `Atmosphere` that is logged in to write, or anonymous to read.
        cache: a folder, or a `Cache`, for blobs that are read; by default the folder that `ATDATA_CACHE` names, or else
            16 GiB in `~/.cache/atdata`.
        repo: another account (DID or handle), whose datasets are listed and read.
        most: bytes of the largest blob that is read; larger ones are refused before they are.

    Example:
        >>> from atdata.atmosphere import Atmosphere
        >>> store = PDSBlobStore(Atmosphere.login("alice.example.org", "app-password"))  # doctest: +SKIP
        >>> urls = store.write_shards(dataset, prefix="digits/v1")  # doctest: +SKIP
        >>> urls[0]  # doctest: +SKIP
        'at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/blob/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq'
    """

    base = "at://"

    def __init__(
        self,
        client: Atmosphere,
        *,
        cache: str | os.PathLike[str] | Cache | None = None,
        repo: str | None = None,
        most: int = LARGEST,
    ) -> None:
        self.client = client
        self.cache = default_cache() if cache is None else cache if isinstance(cache, Cache) else Cache(cache)
        self.repo = repo
        self.most = most
        self._did: str | None = None

    def __repr__(self) -> str:
        return f"PDSBlobStore({self.repo or self.client!r})"

    @property
    def did(self) -> str:
        """The account.

        Raises:
            LoginError: none was named, and nobody is logged in.
        """
        if self._did is None:
            if self.repo is not None:
                self._did = self.client.resolve(self.repo).did
            elif self.client.did is None:
                raise LoginError("nobody is logged in: use Atmosphere.login, or name the account, repo=…")
            else:
                self._did = self.client.did
        return self._did

    @property
    def largest(self) -> int:
        """Most bytes of one blob, as the server says."""
        self._check_owner()
        return min(self.client.blob_limit, _MOST)

    @property
    def shard_size(self) -> int:
        """Most bytes of one shard where nobody asks for others: what the server takes and entries may name, 50 MiB."""
        return min(self.largest, _SHARD)

    # -- reading ---------------------------------------------------------------------------------------------

    def read_url(self, url: str) -> str:
        """The web address that gives the blob, for everybody, at the server of the account it is in."""
        found = take_apart(url)
        if found is None:
            raise UnsafeNameError("no blob has such a URL: at://DID/blob/CID", url=url[:500])
        did, link = found
        return self.client.blob_url(did, str(link))

    def supports_streaming(self) -> bool:
        """True: bytes are used as they arrive."""
        return True

    def blob(self, url: str, size: int | None = None, cache: Cache | None = None) -> BlobObject:
        """The blob at a URL, of any account; nobody is asked yet whether it is there.

        Args:
            url: `at://did/blob/cid`.
            size: its size in bytes when that is known.
            cache: where it is kept, instead of the store's cache.
        """
        return BlobObject(self.client, url, cache or self.cache, size, most=self.most)

    def open(self, url: str) -> BlobObject:
        """Open the blob at `url`, of any account, for reading; see `DataStore.open`."""
        found = self.blob(url)
        found.size  # noqa: B018  (asks the server, and so finds out whether there is one)
        return found

    def at(self, url: str) -> PDSBlobStore:
        """The store of the account that a URL names, read by the same client: this one, or another."""
        actor = url.removeprefix(self.base).partition("/")[0]
        if actor in (self.repo, self.client.did):
            return self
        return PDSBlobStore(self.client, cache=self.cache, repo=actor, most=self.most)

    def record(self, prefix: str) -> tuple[CommitRecord, list[str]]:
        """The commit record of the dataset at a prefix, and the URLs of its shards.

        Raises:
            DatasetNotFoundError: there is no dataset.
        """
        pins = Pins(self.client, self.did)
        pin = pins.first(_checked(prefix))
        if pin is None:
            raise DatasetNotFoundError("there is no dataset here", url=pins.url(prefix.rstrip("/")))
        record = pins.record(pin)
        return record, pins.urls(record)

    def files(self, prefix: str = "") -> Iterator[PinnedFile]:
        """The files of all datasets under `prefix`, by their paths, sorted; nothing of unfinished writes."""
        found: list[PinnedFile] = []
        for first, files in self._datasets(prefix):
            assert first.record is not None
            for name, blob in (*files, File(RECORD_NAME, first.record)):
                file = File(name, blob)
                found.append(PinnedFile(f"{first.prefix}/{name}", blob_url(self.did, file.sha256), file.size))
        yield from sorted(found)

    def prefixes(self, prefix: str = "") -> Iterator[tuple[str, datetime, bool]]:
        """Under `prefix`, where datasets and unfinished writes are, when they were written, and whether finished."""
        seen: dict[str, tuple[datetime, bool]] = {}
        for pin in self._pins(prefix):
            written, done = datetime.fromisoformat(pin.created_at), pin.part == 0 and pin.record is not None
            before = seen.get(pin.prefix)
            if before is None or done > before[1] or (done == before[1] and written > before[0]):
                seen[pin.prefix] = (written, done)
        for place, (written, done) in sorted(seen.items()):
            yield place, written, done

    def _pins(self, prefix: str) -> Iterator[Pin]:
        clean = check_prefix(prefix) if prefix else ""
        for pin in Pins(self.client, self.did).all():
            if not clean or pin.prefix == clean or pin.prefix.startswith(clean + "/"):
                yield pin

    def _datasets(self, prefix: str) -> Iterator[tuple[Pin, list[File]]]:
        """Part 0 and the files of each dataset under a prefix."""
        firsts: dict[str, Pin] = {}
        parts: dict[tuple[str, str | None], list[Pin]] = {}
        for pin in self._pins(prefix):
            if pin.part == 0:
                firsts[pin.prefix] = pin
            elif pin.part is not None:
                parts.setdefault((pin.prefix, pin.series), []).append(pin)
        for first in firsts.values():
            if first.record is not None:
                further = [p for p in parts.get((first.prefix, first.series), ()) if (p.part or 0) < first.parts]
                yield first, [file for pin in (first, *further) for file in pin.files]

    # -- writing ---------------------------------------------------------------------------------------------

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Start writing under `prefix`; see `DataStore.begin`."""
        return self.resume(prefix, (), overwrite=overwrite)

    def resume(self, prefix: str, names: Collection[str], *, overwrite: bool) -> Transaction:
        """Go on with an unfinished write; see `DataStore.resume`."""
        from atdata.stores.pinning import PinTransaction

        return PinTransaction(self, self._writable(prefix), overwrite, names)

    def delete(self, prefix: str) -> None:
        """Unpin the dataset at `prefix`, part 0 first; the server forgets blobs that nothing else names.

        Raises:
            DatasetNotFoundError: there is no dataset.
            StoreBusyError: a writer is at work on it.
        """
        from atdata.stores.pin_claims import PinClaim, remove_pins

        clean = self._writable(prefix)
        pins = Pins(self.client, self.did, proof=False)
        if pins.first(clean) is None:
            raise DatasetNotFoundError("there is no dataset here", url=pins.url(clean))
        claim = PinClaim(self.client, pins, clean)
        try:
            first = pins.first(clean)
            if first is None:
                raise DatasetNotFoundError("there is no dataset here", url=pins.url(clean))
            self.client.delete_record(PIN, key_of(clean))
            stale = [series for series in SERIES if claim.took_over and series != first.series]
            for series in stale:
                remove_pins(self.client, clean, series, sum(1 for _ in pins.further(clean, series)))
            remove_pins(self.client, clean, first.series or SERIES[0], first.parts - 1, claim)
        except BaseException:
            claim.forget()  # whoever comes next takes over, and clears up
            raise

    def _writable(self, prefix: str) -> str:
        """The prefix, when the account that is logged in may write there."""
        clean = _checked(prefix)
        self._check_owner()
        return clean

    def _check_owner(self) -> None:
        if self.client.did is None:
            raise LoginError("nobody is logged in, and only an account's owner writes to it: use Atmosphere.login")
        if self.did != self.client.did:
            raise AccessDeniedError(
                f"this is the account of {self.repo}; {self.client!r} reads it, and writes to its own only"
            )

    def list(self, prefix: str = "") -> Iterator[str]:
        """URLs of the blobs of all datasets under `prefix`, sorted; `files` tells how they are called."""
        yield from sorted({file.url for file in self.files(prefix)})

    def __getstate__(self) -> dict[str, Any]:
        # A client does not take its login along; the account stays the same one.
        return self.__dict__ | {"_did": None, "repo": self.repo or self.client.did}


def _checked(prefix: str) -> str:
    """A prefix that is one in an account, too."""
    clean = check_prefix(prefix)
    start = clean.partition("/")[0]
    if start == "blob" or start.startswith("science.alt.dataset."):
        raise UnsafeNameError(
            f"the prefix {prefix!r} cannot be used: in an account, {start}/ begins addresses of another kind"
        )
    return clean
