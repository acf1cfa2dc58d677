"""Keeping writers on object storage apart: an object that says who is writing under a prefix.

Object storage has no locks that end with their holder, so a claim names its host and process: one of this host whose
process is gone is void at once, any other when it was not renewed for an hour. Claims are numbered, and each is made by
a write that succeeds only where nothing is: who takes over from a void one makes the next, so that of two who try one
fails. The highest number counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from atdata.errors import DatasetExistsError, StoreBusyError

if TYPE_CHECKING:
    from atdata.stores.objects import ObjectStore

__all__ = ["CLAIMS", "LONG_AGO", "RENEW", "Claim", "Writer", "held", "here", "is_void"]

CLAIMS = ".atdata-claims/"
_NAME = re.compile(r"[0-9]{6}\.json")
_LIFE = timedelta(hours=1)
RENEW = timedelta(minutes=5)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

# The claims that this process holds now, or is about to make.
held: set[str] = set()


class Writer(msgspec.Struct):
    """What a claim says of a writer: who it is, and where and since when it is at work."""

    writer: str
    host: str
    pid: int
    since: datetime


_read = msgspec.json.Decoder(Writer).decode  # made here, as threads cannot be the first together (see record.py)


class Claim:
    """The right to write under one prefix, until it is released.

    Args:
        store: where the prefix is.
        folder: the prefix with its slash.

    Raises:
        StoreBusyError: another writer is at work there.

    Attributes:
        took_over: whether the claim of a writer that is gone was found, whose unfinished objects may lie there.
    """

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._writer = uuid.uuid4().hex
        self.took_over = False
        held.add(self._writer)  # before it can be seen: another thread would take it for void
        try:
            self._take()
        except BaseException:
            self.forget()
            raise

    def _take(self) -> None:
        store, folder = self._store, self._folder
        busy = StoreBusyError("another process is writing a dataset here; wait for it", url=store.base + folder)
        before = self._found()
        if not all(map(is_void, before.values())):
            raise busy
        self.took_over = bool(before)
        number = max((int(key[-11:-5]) + 1 for key in before), default=0)
        self._key = f"{folder}{CLAIMS}{number:06d}.json"
        self._data = self._text()
        try:
            store.put(self._key, self._data, create=True)
        except DatasetExistsError:
            raise busy from None
        # What was read before may be long past by now, and two may have made the same on a server without conditional
        # writes. Of two that see each other here at least one goes.
        after = self._found()
        if after.pop(self._key, None) != self._data:
            raise busy
        if not after.items() <= before.items():
            store.remove([self._key])
            raise busy
        store.remove(list(before))

    def _found(self) -> dict[str, bytes]:
        """All claims that are there."""
        found = ((key, self._store.get(key)) for key in self._all())
        return {key: data for key, data in found if data is not None}

    def _all(self) -> list[str]:
        """The keys of all claims, the one that counts last."""
        folder = self._folder + CLAIMS
        return sorted(key for key in self._store.keys(folder) if _NAME.fullmatch(key[len(folder) :]))

    def _text(self) -> bytes:
        self._since = datetime.now(UTC)
        return msgspec.json.encode(Writer(self._writer, here(), os.getpid(), self._since))

    def renew(self) -> None:
        """Say again that the writer is at work, when that was said a while ago."""
        if datetime.now(UTC) - self._since > RENEW:
            self.check()
            self._data = self._text()
            self._store.put(self._key, self._data)

    def mine(self) -> bool:
        """Whether the right was not taken over by another writer meanwhile."""
        return self._all()[-1:] == [self._key] and self._store.get(self._key) == self._data

    def check(self) -> None:
        """Raise StoreBusyError when another writer took over, thinking this one gone."""
        if not self.mine():
            raise StoreBusyError(
                "another process took over writing here, because this one had not been heard of for long; what it "
                "writes counts",
                url=self._store.base + self._folder,
            )

    def suspend(self) -> None:
        """Leave the claim, void, to whoever comes next from any host: it says that what lies there is unfinished."""
        self.forget()
        if self.mine():
            self._store.put(self._key, msgspec.json.encode(Writer("", "", 0, LONG_AGO)))

    def forget(self) -> None:
        """Be a writer that is gone: whoever comes next may take over."""
        held.discard(self._writer)

    def release(self) -> None:
        """Give the right back, where it was not taken over."""
        self.forget()
        if self.mine():
            self._store.remove([self._key])


@cache
def here() -> str:
    """This host, as far as its process ids mean the same: containers may share its name, and not its processes.

    Nobody else learns its name from this.
    """
    name = os.uname().nodename
    with contextlib.suppress(OSError):
        name += f" {Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def is_void(claim: bytes) -> bool:
    """Whether the writer that made a claim is known to be gone."""
    try:
        found = _read(claim)
    except msgspec.MsgspecError:
        return True
    if found.host != here():
        return datetime.now(UTC) - found.since > _LIFE
    if found.pid == os.getpid():
        return found.writer not in held
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
