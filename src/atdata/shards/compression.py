"""Compressed archives: `.tar.gz`, `.tar.zst`, `.tar.bz2`, `.tar.xz`, known by their first bytes.

Formats: RFC 1952 (gzip), RFC 8878 (Zstandard), https://sourceware.org/bzip2/, https://tukaani.org/xz/format.html. All
four may consist of several streams one after the other, which are read as one.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable
from typing import IO, Any, Protocol

from atdata.errors import ShardFormatError, TruncatedShardError

__all__ = ["compression", "open_archive"]

_CHUNK = 1 << 16
_BUFFER = 1 << 17
_MAGIC = (
    ("gzip", re.compile(rb"\x1f\x8b\x08")),
    ("zstd", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)),
    # A member name may begin with "BZh1", so the block magic counts too.
    ("bz2", re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)")),
    ("xz", re.compile(rb"\xfd7zXZ\x00")),
)
_LONGEST = 10


def compression(head: bytes) -> str | None:
    """gzip, zstd, bz2 or xz by the first ten bytes of a file; None when they are not of a compressed one."""
    return next((name for name, magic in _MAGIC if magic.match(head)), None)


def open_archive(stream: IO[bytes]) -> IO[bytes]:
    """A reader of the archive in `stream`, decompressed when its first bytes say that it is compressed.

    Args:
        stream: needs `read` only. It belongs to the reader from here on: closing the reader closes it.

    Returns:
        A buffered reader, front to back, whose memory does not grow with the archive. Reading raises:

        - `TruncatedShardError`: the compressed stream ends too early.
        - `ShardFormatError`: it is damaged, or something else follows it.
        - what `stream.read` raises, as it is.
    """
    source = _Input(stream)
    head = source.peek(_LONGEST)
    kind = compression(head)
    raw: io.RawIOBase
    if kind is None:
        raw = source
    elif kind == "zstd":
        raw = _Zstd(source)
    else:
        raw = _Decompressed(source, kind)
    return io.BufferedReader(raw, _BUFFER)


class _Input(io.RawIOBase):
    """The caller's stream, with its first bytes given once more."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._head = b""
        self.position = 0
        self.failure: BaseException | None = None

    def peek(self, n: int) -> bytes:
        while len(self._head) < n and (more := self._stream.read(n - len(self._head))):
            self._head += more
        return self._head

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        if n is None or n < 0:
            return self.readall()
        try:
            if self._head:
                data, self._head = self._head[:n], self._head[n:]
            else:
                data = self._stream.read(n)
        except BaseException as error:
            self.failure = error
            raise
        self.position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.close()


class _Decompressor(Protocol):
    """What `bz2` and `lzma` give: `decompress` returns at most `max_length` bytes and keeps the rest."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """`zlib` with the interface of `bz2` and `lzma`; the CRC and length at the end of a member are checked."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_NEW: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _Gunzip,
    "bz2": bz2.BZ2Decompressor,
    # A header may ask for a dictionary of 4 GiB; `xz -9` needs 65 MiB.
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28),
}


class _Decompressed(io.RawIOBase):
    """The decompressed bytes of one or more streams of one kind."""

    def __init__(self, source: _Input, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._inner = _NEW[kind]()
        self._started = False  # whether the stream at hand has had any input
        self._pending = b""  # input that is not yet with the decompressor

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._inner.eof and not self._next_stream():
                return 0
            if not self._pending and (self._inner.needs_input or not self._started):
                self._pending = self._source.read(_CHUNK)
                if not self._pending:
                    raise _truncated(self._kind, self._source)
            data, self._pending = self._pending, b""
            self._started = True
            try:
                out = self._inner.decompress(data, len(buffer))
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as error:
                raise _damaged(self._kind, self._source, error) from error
            if out:
                buffer[: len(out)] = out
                return len(out)

    def _next_stream(self) -> bool:
        """Goes on to the stream that follows, over zeros; False at the end of the input."""
        self._pending = self._inner.unused_data.lstrip(b"\0")
        while not self._pending:
            piece = self._source.read(_CHUNK)
            if not piece:
                return False
            self._pending = piece.lstrip(b"\0")
        self._inner = _NEW[self._kind]()
        self._started = False
        return True

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._source.close()


class _Zstd(io.RawIOBase):
    """The decompressed bytes of Zstandard frames."""

    def __init__(self, source: _Input) -> None:
        import pyarrow

        self._source = source
        self._errors = (OSError, pyarrow.ArrowException, ValueError, MemoryError)
        self._inner = pyarrow.CompressedInputStream(pyarrow.PythonFile(source, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except self._errors as error:
            if self._source.failure is not None:
                raise self._source.failure from None
            if "runcated" in str(error):
                raise _truncated("zstd", self._source) from error
            raise _damaged("zstd", self._source, error) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._inner.close()
            self._source.close()


def _truncated(kind: str, source: _Input) -> TruncatedShardError:
    return TruncatedShardError(
        f"the {kind} stream ends too early: part of it is missing; fetch or write it again", offset=source.position
    )


def _damaged(kind: str, source: _Input, error: BaseException) -> ShardFormatError:
    return ShardFormatError(f"the {kind} stream is damaged: {error}", offset=source.position)
