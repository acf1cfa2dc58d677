"""Reading stored objects from front to back, hashed on the way."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Generator
from typing import Any

from atdata.stores.base import StoredObject

__all__ = ["Hashing"]


class Hashing:
    """An object read from its beginning, and the SHA-256 of it.

    Args:
        file: the object.
        passed: called with every stretch of bytes, in order, before any of it is given out.

    Attributes:
        size: bytes that were hashed so far.
        failure: why no more can be read; `finish` raises it again.

    Example:
        >>> from atdata.stores.cloud import MemoryDataStore
        >>> store = MemoryDataStore("hashing")
        >>> store.put("a", b"some bytes")
        >>> with Hashing(store.open("memory://hashing/a")) as hashing:
        ...     hashing.reader().read(4), hashing.finish()[:12], hashing.size
        (b'some', '0d22cdcc10e6', 10)
    """

    def __init__(self, file: StoredObject, passed: Callable[[memoryview], None] | None = None) -> None:
        self._chunks = file.chunks()
        self._passed = passed
        self._hasher = hashlib.sha256()
        self.size = 0
        self.failure: BaseException | None = None

    def __enter__(self) -> Hashing:
        return self

    def __exit__(self, *exc: object) -> None:
        if isinstance(self._chunks, Generator):
            self._chunks.close()

    def next(self) -> memoryview:
        """The next stretch of bytes; empty at the end."""
        if self.failure is not None:
            raise self.failure
        try:
            chunk = next(self._chunks, memoryview(b""))
            self._hasher.update(chunk)
            self.size += len(chunk)
            if chunk and self._passed is not None:
                self._passed(chunk)
        except BaseException as error:
            self.failure = error
            raise
        return chunk

    def reader(self) -> io.BufferedReader:
        """A stream of what was not read yet; that it is closed does not matter here."""
        return io.BufferedReader(_Reader(self), 1 << 17)

    def finish(self) -> str:
        """Read what is left; the SHA-256 of all of it, in hex."""
        while self.next():
            pass
        return self._hasher.hexdigest()


class _Reader(io.RawIOBase):
    """A stream over the stretches that a `Hashing` gives."""

    def __init__(self, hashing: Hashing) -> None:
        self._hashing = hashing
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = self._hashing.next()
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n
