"""Keeping writers on object storage apart: an object that says who is writing under a prefix.

Object storage has no locks that end with their holder, so a claim names its host and process: one of this host whose
process is gone is void at once, any other when it was not renewed for an hour.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from atdata.errors import DatasetExistsError, StoreBusyError

if TYPE_CHECKING:
    from atdata.stores.objects import ObjectStore

__all__ = ["CLAIM_NAME", "Claim"]

CLAIM_NAME = ".atdata-writing.json"
_LIFE = timedelta(hours=1)
_RENEW = timedelta(minutes=5)
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

# The claims that this process holds now.
_held: set[str] = set()


class _Text(msgspec.Struct):
    """What stands in a claim."""

    writer: str
    host: str
    pid: int
    since: datetime


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
        self._key = folder + CLAIM_NAME
        self._writer = uuid.uuid4().hex
        self.took_over = False
        self._data = data = self._text()
        try:
            store.put(self._key, data, create=True)
        except DatasetExistsError:
            found = store.get(self._key)
            if found is None or _void(found):
                self.took_over = True
                store.put(self._key, data)
        # Of two that took over a void claim, or on a server without conditional writes, the last one has it.
        if store.get(self._key) != data:
            raise StoreBusyError(
                "another process is writing a dataset here; wait for it", url=store.base + folder
            ) from None
        _held.add(self._writer)

    def _text(self) -> bytes:
        self._since = datetime.now(UTC)
        return msgspec.json.encode(_Text(self._writer, os.uname().nodename, os.getpid(), self._since))

    def renew(self) -> None:
        """Say again that the writer is at work, when that was said a while ago."""
        if datetime.now(UTC) - self._since > _RENEW:
            self.check()
            self._data = self._text()
            self._store.put(self._key, self._data)

    def mine(self) -> bool:
        """Whether the right was not taken over by another writer meanwhile."""
        return self._store.get(self._key) == self._data

    def check(self) -> None:
        """Raise StoreBusyError when another writer took over, thinking this one gone."""
        if not self.mine():
            raise StoreBusyError(
                "another process took over writing here, because this one had not been heard of for long; what it "
                "writes counts",
                url=self._store.base + self._key.removesuffix(CLAIM_NAME),
            )

    def suspend(self) -> None:
        """Leave the claim, void, to whoever comes next from any host: it says that what lies there is unfinished."""
        self.forget()
        if self.mine():
            self._store.put(self._key, msgspec.json.encode(_Text("", "", 0, _LONG_AGO)))

    def forget(self) -> None:
        """Be a writer that is gone: whoever comes next may take over."""
        _held.discard(self._writer)

    def release(self) -> None:
        """Give the right back, where it was not taken over."""
        self.forget()
        if self.mine():
            self._store.remove([self._key])


def _void(claim: bytes) -> bool:
    """Whether the writer that made a claim is known to be gone."""
    try:
        found = msgspec.json.decode(claim, type=_Text)
    except msgspec.MsgspecError:
        return True
    if found.host != os.uname().nodename:
        return datetime.now(UTC) - found.since > _LIFE
    if found.pid == os.getpid():
        return found.writer not in _held
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
