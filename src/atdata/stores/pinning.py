"""Writing to an account on the AT Protocol: blobs that are sent while more are made, and the records that pin them.

A server wants to know a blob's length before its first byte, and its CID says what it is: so each shard is spooled in a
temporary file (small files in memory), and sent from there when it is complete. At most five shards lie there at once.

What was sent is pinned every now and then in records out of sight (see `atdata.stores.pins`), so that a write that was
killed, or lost its server, goes on from there: blobs that the account has already are not sent again.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from atdata.cid import Link
from atdata.errors import (
    AtdataError,
    AtmosphereError,
    DatasetExistsError,
    IntegrityError,
    StoreBusyError,
    StoreError,
    SwapError,
    XrpcError,
)
from atdata.stores.base import Sink, Transaction
from atdata.stores.blobs import BlobObject, blob_url
from atdata.stores.pin_claims import PinClaim, remove_pins
from atdata.stores.pins import PIN, ROOM, SERIES, File, Pin, Pins, json_size, key_of, now
from atdata.stores.record import CommitRecord
from atdata.stores.spool import BlobSink, Spool

if TYPE_CHECKING:
    from atdata.stores.pds import PDSBlobStore

__all__ = ["PinTransaction"]

_UPLOADS = 4  # at a time
_WAITING = 12  # files that wait for their turn, the shards among them no more than four
_ASK = 1 << 20  # bytes from which asking whether a blob is there takes less than sending it
# Sent and not pinned: what a killed writer has to send again. A server may copy a blob when a record first names it: a
# large shard is pinned by itself, so that this goes on while the next one is sent, and little of it is left at the end.
_PIN_BYTES, _PIN_FILES = 32 << 20, 90


class _Part:
    """A pin record of a write under way, as it is on the server."""

    def __init__(self, number: int, files: Collection[File] = (), cid: str | None = None) -> None:
        self.number = number
        self.files = list(files)
        self.size = sum(map(json_size, self.files))
        self.cid = cid  # None before it is there

    def takes(self, file: File) -> bool:
        return self.size + json_size(file) <= ROOM

    def add(self, file: File) -> None:
        self.files.append(file)
        self.size += json_size(file)


class PinTransaction(Transaction):
    """One writer's work under one prefix of an account."""

    def __init__(self, store: PDSBlobStore, prefix: str, overwrite: bool, names: Collection[str] = ()) -> None:
        self._store = store
        self._client = client = store.client
        self._prefix = prefix
        self._pins = pins = Pins(client, store.did, proof=False)  # the own server, just now
        self._most = store.largest
        self._overwrite = overwrite
        self._lock = threading.Lock()
        self._files: dict[str, File] = {}  # all that was sent
        self._unpinned: list[File] = []
        self._waiting: deque[tuple[str, Spool, Future[Mapping[str, Any]]]] = deque()
        self._uploads: ThreadPoolExecutor | None = None
        self._names = names
        self._deciding = self._committed = False
        self._parts: list[_Part] = []
        self._old: Pin | None = None
        self._refuse_existing()
        self._claim = PinClaim(client, pins, prefix)
        try:
            self._old = self._refuse_existing()  # another writer may have finished meanwhile
            self._series = SERIES[1] if self._old is not None and self._old.series == SERIES[0] else SERIES[0]
            if self._claim.took_over:
                found = pins.further(prefix, self._series)
                self._parts = [_Part(number, pin.files, pin.record_cid) for number, pin in enumerate(found, 1)]
        except BaseException:
            with contextlib.suppress(AtdataError):
                if self._claim.took_over:  # what was left is still to be resumed, or removed
                    self._claim.suspend()
                else:
                    self._claim.release()
            raise
        self._left = {file.name: file for part in self._parts for file in part.files}
        there = [*self._left.values(), *self._old_files()]
        self._there = {file.sha256: file.blob for file in there}

    def _refuse_existing(self) -> Pin | None:
        found = self._pins.first(self._prefix)
        if found is not None and not self._overwrite:
            raise DatasetExistsError(
                "there is a dataset already: replace it with overwrite=True (--overwrite), or choose another place",
                url=self._pins.url(self._prefix),
            )
        return found

    def _old_files(self) -> Iterator[File]:
        """What the dataset that is replaced has: what the new one has too need not be sent."""
        if self._old is not None:
            yield from self._old.files
            if self._old.parts > 1:
                for pin in self._pins.further(self._prefix, self._old.series or ""):
                    yield from pin.files

    # -- sending ---------------------------------------------------------------------------------------------

    def create(self, name: str) -> Sink:
        """A spool for a new file `name`, which is sent when it is complete."""
        self._claim.renew()
        return BlobSink(name, self._most, self._send)

    def _send(self, name: str, spool: Spool) -> None:
        with self._lock:
            if self._uploads is None:
                self._uploads = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="atdata-upload")
            self._waiting.append((name, spool, self._uploads.submit(self._sent, name, spool)))
            while len(self._waiting) > _WAITING or sum(s.size for _, s, _ in self._waiting) > 4 * self._most:
                self._settle()
            while self._waiting and self._waiting[0][2].done():
                self._settle()
            self._pin_some()

    def _sent(self, name: str, spool: Spool) -> Mapping[str, Any]:
        """The blob of a complete file, sent unless the account has it."""
        there = self._there.get(spool.sha256)
        if there is not None:
            return there
        cid, mime = str(Link.to_sha256(spool.sha256)), _mime(name)
        if spool.size >= _ASK:
            with contextlib.suppress(XrpcError):
                if self._client.blob_size(self._store.did, cid) == spool.size:
                    return {"$type": "blob", "ref": {"$link": cid}, "mimeType": mime, "size": spool.size}
        try:
            return self._client.upload_blob(spool, spool.size, mime, sha256=spool.sha256)
        except XrpcError as error:
            if error.status != 413:
                raise error.at(url=blob_url(self._store.did, spool.sha256)) from None
            raise StoreError(
                f"the server refuses {name} of {spool.size} bytes, although it says that it takes {self._most} in one "
                "blob; something before it takes less. Give a smaller maxsize",
                url=self._pins.url(self._prefix),
            ) from None

    def _settle(self) -> None:
        """Wait for the file that was closed first."""
        name, spool, sending = self._waiting.popleft()
        try:
            blob = sending.result()
        finally:
            spool.close()
        file = File(name, blob)
        known = self._left.get(name)
        self._files[name] = file
        self._there[file.sha256] = blob
        if known is None or known.sha256 != file.sha256:
            self._unpinned.append(file)

    def _settle_all(self) -> None:
        with self._lock:
            while self._waiting:
                self._settle()

    # -- pinning ---------------------------------------------------------------------------------------------

    def _pin_some(self) -> None:
        """Pin what was sent, when that is much: until then nobody could go on from there."""
        if len(self._unpinned) >= _PIN_FILES or sum(file.size for file in self._unpinned) >= _PIN_BYTES:
            self._pin_all()

    def _pin_all(self) -> None:
        changed: list[_Part] = []
        for file in self._unpinned:
            if not self._parts or not self._parts[-1].takes(file):
                self._parts.append(_Part(len(self._parts) + 1))
            part = self._parts[-1]
            part.add(file)
            if part not in changed:
                changed.append(part)
        self._unpinned.clear()
        for part in changed:
            self._write(part)

    def _write(self, part: _Part) -> None:
        pin = Pin(self._prefix, tuple(part.files), part.number)
        key = key_of(self._prefix, part.number, self._series)
        try:
            part.cid = self._client.put_record(PIN, key, pin.to_value(), swap_record=part.cid).cid
        except SwapError:
            self._claim.check()
            there = self._pins.get(self._prefix, part.number, self._series)  # of a writer whose claim is lost
            replaced = None if there is None else there.record_cid
            part.cid = self._client.put_record(PIN, key, pin.to_value(), swap_record=replaced).cid
        except XrpcError as error:
            if error.error == "BlobNotFound":
                raise StoreError(
                    "a blob that this write shares with another dataset was removed with that meanwhile; write again",
                    url=self._pins.url(self._prefix),
                ) from error
            raise

    # -- the end ---------------------------------------------------------------------------------------------

    def left(self, name: str) -> BlobObject | None:
        """What an unfinished write left under `name`; see `Transaction.left`."""
        file = self._left.get(name) if name in self._names else None
        return None if file is None else self._store.blob(blob_url(self._store.did, file.sha256), file.size)

    def keep(self, name: str) -> None:
        """Take what was left under `name` into this transaction."""
        with self._lock:
            self._files[name] = self._left[name]

    def fitted(self, record: CommitRecord) -> CommitRecord:
        """The record, without the statistics of its shards where it would be larger than a blob can be."""
        if len(record.to_bytes()) <= self._most:
            return record
        short = CommitRecord(record.schema, tuple(msgspec.structs.replace(s, stats={}) for s in record.shards))
        if len(short.to_bytes()) > self._most:
            raise StoreError(
                f"the commit record of {len(record.shards)} shards is larger than the {self._most} bytes that the "
                "server takes in one blob: write larger shards",
                url=self._pins.url(self._prefix),
            )
        return short

    def commit(self, record: CommitRecord | None) -> list[str]:
        """Make everything written the dataset at the prefix; part 0 comes last."""
        if record is None:
            raise StoreError(
                "an account keeps datasets whose shards are plain .tar files; these are not. Write them anew with "
                "write_shards",
                url=self._pins.url(self._prefix),
            )
        self._settle_all()
        for shard in record.shards:
            if shard.name not in self._files or self._files[shard.name].sha256 != shard.sha256:
                raise IntegrityError(
                    "the shard was not sent as its record has it",
                    url=blob_url(self._store.did, shard.sha256),
                    expected=shard.sha256,
                )
        data = record.to_bytes()
        blob = self._client.upload_blob(data, len(data), "application/json")
        kept = self._arrange()
        first = Pin(self._prefix, tuple(self._unpinned), 0, 1 + kept, self._series, record.cid, blob, now())
        self._decide(first)
        self._clear_up(kept)
        return self._pins.urls(record)

    def _arrange(self) -> int:
        """Have the further parts hold what does not fit into part 0, and nothing else; how many are needed."""
        wanted = set(map(_identity, self._files.values()))
        for part in self._parts:  # of a write that was given up: it may have made other files
            stays = [file for file in part.files if _identity(file) in wanted]
            wanted -= set(map(_identity, stays))
            if len(stays) != len(part.files):
                renewed = _Part(part.number, stays, part.cid)
                part.files, part.size = renewed.files, renewed.size
                self._write(part)
        self._unpinned = [file for file in self._files.values() if _identity(file) in wanted]
        if sum(map(json_size, self._unpinned)) > ROOM:
            self._pin_all()
        return max((part.number for part in self._parts if part.files), default=0)

    def _decide(self, first: Pin) -> None:
        """Write part 0, provided that nobody has taken over, or has written it; with that the dataset is there.

        Held to by records, not by the repository's commit: an account may be written to all the time.
        """
        self._claim.renew(at_once=True)
        self._deciding = True
        try:
            replaced = None if self._old is None else self._old.record_cid
            self._client.put_record(PIN, key_of(self._prefix), first.to_value(), swap_record=replaced)
        except SwapError:
            raise StoreBusyError(
                "another writer has changed the dataset here meanwhile; what it wrote counts",
                url=self._pins.url(self._prefix),
            ) from None
        self._committed = True

    def _clear_up(self, kept: int) -> None:
        """Remove what the new dataset does not need. Should this fail, the next writer does it."""
        self._stop()
        old = self._old
        with contextlib.suppress(AtdataError):
            for part in reversed(self._parts[kept:]):
                self._client.delete_record(PIN, key_of(self._prefix, part.number, self._series))
            further = old.parts - 1 if old is not None else 0
            stale = SERIES[1] if self._series == SERIES[0] else SERIES[0]
            remove_pins(self._client, self._prefix, stale, further, self._claim)

    def fail(self, error: BaseException) -> None:
        """Keep what was sent when it is the network that failed, or somebody pressed Ctrl-C."""
        if self._committed or not isinstance(error, AtmosphereError | KeyboardInterrupt):
            self.abort()
            return
        self.suspend()
        if self._parts:
            count = sum(len(part.files) for part in self._parts)
            error.add_note(f"{count} files are in the account already; the same write, begun again, goes on from there")

    def suspend(self) -> None:
        """Leave what was sent to a writer that resumes; see `Transaction.suspend`."""
        if self._committed:
            return
        self._let_end()
        if not self._deciding:
            with contextlib.suppress(AtdataError):
                self._pin_all()
        with contextlib.suppress(AtdataError):  # the server may be gone; the claim is void with this process
            self._claim.suspend()
        self._claim.forget()

    def _let_end(self) -> None:
        """Wait for what is under way, whatever comes of it; what has not begun is not sent."""
        for _, _, sending in self._waiting:
            sending.cancel()
        self._stop()
        with self._lock:
            while self._waiting:
                if self._waiting[0][2].cancelled():
                    self._waiting.popleft()[1].close()
                    continue
                with contextlib.suppress(Exception):  # the one that led here is raised
                    self._settle()

    def _stop(self) -> None:
        if self._uploads is not None:
            self._uploads.shutdown()
            self._uploads = None

    def abort(self) -> None:
        """Leave the prefix as it was before."""
        self._let_end()
        if self._committed:
            return
        # The server may be gone: the error that led here is raised anyway, and the next writer clears up.
        try:
            if self._claim.mine():  # else another writer took over, and what lies there is its own
                written = [part for part in self._parts if part.cid is not None]
                remove_pins(self._client, self._prefix, self._series, len(written), self._claim)
        except AtdataError:
            pass
        finally:
            self._claim.forget()


def _identity(file: File) -> tuple[str, str]:
    return file.name, file.sha256


def _mime(name: str) -> str:
    if name.endswith(".tar"):
        return "application/x-tar"
    return "application/json" if name.endswith(".json") else "application/octet-stream"
