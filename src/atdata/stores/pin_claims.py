"""Keeping writers to an account on the AT Protocol apart, and clearing up after them."""

from __future__ import annotations

import contextlib
import os
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from atdata.errors import StoreBusyError, SwapError
from atdata.stores.claims import LONG_AGO, RENEW, Writer, held, here, is_void
from atdata.stores.pins import PIN, WRITER, Pin, Pins, key_of

if TYPE_CHECKING:
    from atdata.atmosphere.client import Atmosphere

__all__ = ["PinClaim", "remove_pins"]

_MOST_DELETED = 8  # records in one commit: each names hundreds of blobs, which the server looks up


class PinClaim:
    """The right to write under one prefix of an account, said by a record; see `atdata.stores.claims`.

    Args:
        client: the account's.
        pins: its pins.
        prefix: the place in the store.

    Raises:
        StoreBusyError: another writer is at work there.

    Attributes:
        took_over: whether the claim of a writer that is gone was found, whose pins may be there.
    """

    def __init__(self, client: Atmosphere, pins: Pins, prefix: str) -> None:
        self._client = client
        self._pins = pins
        self._prefix = prefix
        self._writer = uuid.uuid4().hex
        self.key = key_of(prefix, series=WRITER)
        self.took_over = False
        held.add(self._writer)  # before it can be seen: another thread would take it for void
        try:
            self._take()
        except BaseException:
            self.forget()
            raise

    def _take(self) -> None:
        busy = StoreBusyError(
            "another process is writing a dataset here; wait for it", url=self._pins.url(self._prefix)
        )
        try:
            self._put(None)
        except SwapError:
            found = self._pins.get(self._prefix, series=WRITER)
            if found is not None and not is_void(msgspec.json.encode(found.writer)):
                raise busy from None
            self.took_over = found is not None
            try:
                self._put(None if found is None else found.record_cid)
            except SwapError:
                raise busy from None

    def _put(self, replaced: str | None, writer: Writer | None = None) -> None:
        self._since = datetime.now(UTC)
        writer = writer or Writer(self._writer, here(), os.getpid(), self._since)
        value = Pin(self._prefix, writer=msgspec.to_builtins(writer)).to_value()
        self._cid = self._client.put_record(PIN, self.key, value, swap_record=replaced).cid

    def renew(self, *, at_once: bool = False) -> None:
        """Say again that the writer is at work, when that was said a while ago, or `at_once`.

        Raises:
            StoreBusyError: another writer took over, thinking this one gone.
        """
        if at_once or datetime.now(UTC) - self._since > RENEW:
            try:
                self._put(self._cid)
            except SwapError:
                raise self._lost() from None

    def mine(self) -> bool:
        """Whether the right was not taken over by another writer meanwhile."""
        found = self._pins.get(self._prefix, series=WRITER)
        return found is not None and found.record_cid == self._cid

    def check(self) -> None:
        """Raise StoreBusyError when another writer took over, thinking this one gone."""
        if not self.mine():
            raise self._lost()

    def _lost(self) -> StoreBusyError:
        return StoreBusyError(
            "another process took over writing here, because this one had not been heard of for long; what it writes "
            "counts",
            url=self._pins.url(self._prefix),
        )

    def suspend(self) -> None:
        """Leave the claim, void, to whoever comes next from any host: it says that something is unfinished."""
        self.forget()
        with contextlib.suppress(SwapError):
            self._put(self._cid, Writer("", "", 0, LONG_AGO))

    def forget(self) -> None:
        """Be a writer that is gone: whoever comes next may take over."""
        held.discard(self._writer)

    def release(self) -> None:
        """Give the right back, where it was not taken over."""
        self.forget()
        if self.mine():
            self._client.delete_record(PIN, self.key)


def remove_pins(client: Atmosphere, prefix: str, series: str, parts: int, claim: PinClaim | None = None) -> None:
    """Remove the parts of one series, the last first: what is left when this is cut short is found by counting on.

    Args:
        client: the account's.
        prefix: the place in the store.
        series: their keys.
        parts: how many they are.
        claim: released with the last of them.
    """
    from atdata.atmosphere.client import Write

    writes = [Write("delete", PIN, key_of(prefix, part, series)) for part in range(parts, 0, -1)]
    if claim is not None:
        claim.forget()
        writes.append(Write("delete", PIN, claim.key))
    for at in range(0, len(writes), _MOST_DELETED):
        client.apply_writes(writes[at : at + _MOST_DELETED])
