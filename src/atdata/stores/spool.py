"""Files that are complete before they are sent: a server wants to know how long they are, and what."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, cast

from atdata.errors import StoreError
from atdata.stores.base import Sink

__all__ = ["BlobSink", "Spool"]

_MEMORY = 1 << 20  # bytes of a file that are kept in memory; a larger one lies in a temporary file
_PIECE = 1 << 20


class Spool:
    """Bytes that were written once and can be read again and again; closed when they are not needed any more."""

    def __init__(self) -> None:
        self._file = cast(IO[bytes], tempfile.SpooledTemporaryFile(_MEMORY, prefix="atdata-"))  # noqa: SIM115
        self._hasher = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self._hasher.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """The digest of what was written, in hex."""
        return self._hasher.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece

    def close(self) -> None:
        """Throw the bytes away."""
        self._file.close()


class BlobSink(Sink):
    """A file that is sent when it is complete.

    Args:
        name: its name.
        most: bytes that the server takes.
        closed: takes the complete file.
    """

    def __init__(self, name: str, most: int, closed: Callable[[str, Spool], None]) -> None:
        self._name = name
        self._most = most
        self._closed = closed
        self._bytes = Spool()
        self._spool: Spool | None = self._bytes

    @property
    def sha256(self) -> str:  # type: ignore[override]
        """The digest of what was written, in hex."""
        return self._bytes.sha256

    def write(self, data: bytes) -> None:
        """Append bytes."""
        assert self._spool is not None
        if self._spool.size + len(data) > self._most:
            raise StoreError(
                f"{self._name} has more than the {self._most} bytes that the server takes in one blob: write it in "
                "smaller shards"
            )
        try:
            self._spool.write(data)
        except OSError as error:
            raise StoreError(
                f"the temporary file cannot be written: {error.strerror}; TMPDIR says where it lies", url=self._name
            ) from None

    def close(self) -> None:
        """Send the file: these are all bytes."""
        spool, self._spool = self._spool, None
        assert spool is not None
        self._closed(self._name, spool)

    def abort(self) -> None:
        """Throw the bytes away; does nothing after `close`."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
