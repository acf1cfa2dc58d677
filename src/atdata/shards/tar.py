"""Tar archives as shards use them: writing plain ustar, reading ustar, GNU and PAX.

Format: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13); GNU extensions:
https://www.gnu.org/software/tar/manual/html_node/Standard.html.

What is written depends on names and contents alone (mtime, uid and gid are 0), so the same samples give the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from atdata.errors import ShardFormatError, TruncatedShardError

__all__ = [
    "BLOCK",
    "BufferSource",
    "Member",
    "Source",
    "StreamSource",
    "archive_size",
    "end_of_archive",
    "header",
    "headers",
    "padding",
    "walk",
]

BLOCK = 512
_RECORD = 20 * BLOCK
_ZERO = bytes(BLOCK)
_MAX_SIZE = 8**11 - 1  # eleven octal digits
_MAX_EXTENSION = 1 << 20  # PAX headers and long names are bounded before they are read
_MAX_STREAMED = 1 << 32  # one member of a stream has to fit into memory

# Between name and size, between size and checksum, and after the checksum of every header we write.
_IDS = b"0000644\0" + b"0000000\0" * 2
_MTIME = b"00000000000\0"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(155 + 12)
_SUM = sum(_IDS) + sum(_MTIME) + sum(_TAIL) + 8 * 0x20


def header(name: str, size: int) -> bytes:
    """The header block of a regular member; a PAX header comes before it where the name needs one.

    Args:
        name: path of the member, any Unicode; more than 100 bytes or non-ASCII need two blocks more.
        size: payload length in bytes, less than 8 GiB.
    """
    if name.isascii() and len(name) <= 100:
        return _ustar(name.encode(), size, b"0")
    record = _pax_record("path", name)
    short = name.encode("ascii", "replace")[:100]
    pax = _ustar(b"././@PaxHeader", len(record), b"x") + record + padding(len(record))
    return pax + _ustar(short, size, b"0")


def headers(names: Sequence[str], sizes: Sequence[int]) -> list[bytes]:
    """What `header` gives for each of many members, all computed at once."""
    plain = [name.encode() if len(name) <= 100 and name.isascii() else b"" for name in names]
    n = len(names)
    blocks = np.tile(np.frombuffer(_ustar(b"", 0, b"0"), np.uint8), (n, 1))
    blocks[:, :100] = np.array(plain, "S100").view(np.uint8).reshape(n, 100)
    count = np.array(sizes, np.int64)
    if n and count.max() > _MAX_SIZE:
        raise ShardFormatError(f"a member of {count.max()} bytes is more than a tar header can say ({_MAX_SIZE})")
    blocks[:, 124:135] = _octal(count, 11)
    sums = blocks[:, :100].sum(1, np.int64) + blocks[:, 124:135].sum(1, np.int64) + _SUM
    blocks[:, 148:154] = _octal(sums, 6)
    data = blocks.tobytes()
    return [data[i * BLOCK : (i + 1) * BLOCK] if short else header(names[i], sizes[i]) for i, short in enumerate(plain)]


def _octal(values: NDArray[np.int64], digits: int) -> NDArray[np.int64]:
    return (values[:, None] >> np.arange(3 * digits - 3, -1, -3)) % 8 + ord("0")


def _ustar(name: bytes, size: int, typeflag: bytes) -> bytes:
    if size > _MAX_SIZE:
        raise ShardFormatError(f"a member of {size} bytes is more than a tar header can say ({_MAX_SIZE})")
    digits = b"%011o" % size
    tail = _TAIL if typeflag == b"0" else typeflag + _TAIL[1:]
    checksum = _SUM + sum(name) + sum(digits) + typeflag[0] - 0x30
    return b"%s%s%s\0%s%06o\0 %s" % (name.ljust(100, b"\0"), _IDS, digits, _MTIME, checksum, tail)


def _pax_record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def padding(size: int) -> bytes:
    """Zeros that fill the last block of a payload of `size` bytes."""
    return _ZERO[: -size % BLOCK]


def archive_size(position: int) -> int:
    """Size of a finished archive whose members take `position` bytes."""
    end = position + 2 * BLOCK
    return end + (-end % _RECORD)


def end_of_archive(position: int) -> bytes:
    """The end marker for an archive of `position` bytes: two zero blocks, then zeros to a whole record."""
    return bytes(archive_size(position) - position)


class Member(NamedTuple):
    """One regular member.

    Attributes:
        name: its path in the archive.
        offset: of its payload, in bytes from the start of the archive.
        payload: its bytes; a view where the archive is in memory.
        start: offset of its first header block, so that reading can begin there.
    """

    name: str
    offset: int
    payload: bytes | memoryview
    start: int


class Source(Protocol):
    """Where `walk` takes the archive's bytes from, front to back."""

    @property
    def position(self) -> int:
        """How many bytes were taken so far."""

    def read(self, n: int) -> bytes:
        """The next `n` bytes; fewer only at the end."""

    def payload(self, n: int) -> bytes | memoryview | None:
        """The next `n` bytes, and the padding after them is skipped; None when they are not all there."""

    def rest_is_zero(self) -> bool:
        """Whether only zeros are left."""


class BufferSource:
    """An archive in memory or mapped; payloads are views of it."""

    def __init__(self, buffer: Any) -> None:
        self._view = memoryview(buffer)
        self.position = 0

    def read(self, n: int) -> bytes:
        """The next `n` bytes; fewer only at the end."""
        start = self.position
        data = bytes(self._view[start : start + n])
        self.position = start + len(data)
        return data

    def payload(self, n: int) -> memoryview | None:
        """A view of the next `n` bytes, and the padding after them is skipped."""
        start = self.position
        end = start + n
        if end > len(self._view):
            return None
        self.position = end + (-n % BLOCK)
        return self._view[start:end]

    def rest_is_zero(self) -> bool:
        """Whether only zeros are left."""
        for start in range(self.position, len(self._view), 1 << 20):
            if bytes(self._view[start : start + (1 << 20)]).strip(b"\0"):
                return False
        return True


class StreamSource:
    """An archive that arrives in pieces; nothing is kept but the member at hand."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.position = 0

    def read(self, n: int) -> bytes:
        """The next `n` bytes; fewer only at the end of the stream."""
        data = self._stream.read(n)
        if len(data) < n:  # raw streams and sockets may give less than asked
            pieces = [data]
            missing = n - len(data)
            while missing and (more := self._stream.read(min(missing, 1 << 20))):
                pieces.append(more)
                missing -= len(more)
            data = b"".join(pieces)
        self.position += len(data)
        return data

    def payload(self, n: int) -> bytes | None:
        """The next `n` bytes, and the padding after them is skipped."""
        if n > _MAX_STREAMED:
            raise ShardFormatError(f"a member of {n} bytes is too large to read from a stream")
        pieces = []
        missing = n
        while missing:  # in bounded steps: a length in a header is only a claim
            piece = self.read(min(missing, 1 << 24))
            if not piece:
                return None
            pieces.append(piece)
            missing -= len(piece)
        pad = -n % BLOCK
        self.read(pad)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def rest_is_zero(self) -> bool:
        """Whether only zeros are left; reads to the end."""
        while piece := self.read(1 << 20):
            if piece.strip(b"\0"):
                return False
        return True


def walk(source: Source) -> Iterator[Member]:
    """The regular members of an archive, in order.

    Directories are passed over. Every header's checksum is checked.

    Raises:
        TruncatedShardError: the end marker is missing, or a member is cut short.
        ShardFormatError: a header that is no tar header; a link, device or sparse member; an absolute name or one
            with `..`; a member that comes twice; headers that readers understand differently; data behind the end
            marker.
    """
    seen: set[str] = set()
    long_name: str | None = None
    pax: dict[str, str] = {}
    first = -1  # where the extension headers of the member to come begin
    while True:
        start = source.position
        block = source.read(BLOCK)
        if len(block) < BLOCK:
            raise TruncatedShardError(
                "the archive ends without its end marker: part of it is missing; fetch or write it again",
                offset=start,
            )
        name, size, typeflag = _parse(block, start)
        if typeflag is None:
            second = source.read(BLOCK)
            if len(second) < BLOCK:
                raise TruncatedShardError(
                    "the archive ends in the middle of its end marker; fetch or write it again", offset=start
                )
            if pax or long_name is not None:
                raise TruncatedShardError(
                    "the archive ends behind an extension header: its member is missing", offset=first
                )
            if second != _ZERO or not source.rest_is_zero():
                raise ShardFormatError(
                    "there is data behind the end-of-archive marker: archives were joined, or zeros overwrite a part",
                    offset=start,
                )
            return
        if typeflag in b"xXgLK":
            body = source.payload(size) if size <= _MAX_EXTENSION else b""
            if size > _MAX_EXTENSION:
                raise ShardFormatError(f"an extension header of {size} bytes is too large", offset=start)
            if body is None:
                raise TruncatedShardError("the archive is cut inside an extension header", offset=start)
            if (typeflag in b"xX" and pax) or (typeflag == b"L" and long_name is not None):
                raise ShardFormatError("a member has two extension headers of one kind", offset=start)
            if typeflag in b"xX":
                pax = _parse_pax(bytes(body), start)
            elif typeflag == b"L":
                long_name = bytes(body).rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif typeflag == b"g":
                common = _parse_pax(bytes(body), start)
                if "path" in common or "size" in common:
                    raise ShardFormatError("a PAX header gives all members one name or size", offset=start)
            if first < 0:
                first = start
            continue
        if first < 0:
            first = start
        if long_name is not None:
            name = long_name
        if pax:
            name = pax.get("path") or name
            size = _pax_size(pax, size, start)
        long_name, pax = None, {}
        if typeflag == b"5" or (typeflag == b"\0" and name.endswith("/")):
            if size:  # some readers pass over so many bytes, others find members there
                raise ShardFormatError(f"the directory {name!r} has contents of its own", offset=start)
            first = -1
            continue
        _check_member(name, typeflag, start)
        if name in seen:
            raise ShardFormatError(f"the member {name!r} comes twice", offset=start)
        seen.add(name)
        offset = source.position
        payload = source.payload(size)
        if payload is None:
            raise TruncatedShardError(
                f"the archive is cut inside the member {name!r} of {size} bytes; fetch or write it again", offset=offset
            )
        yield Member(name, offset, payload, first)
        first = -1


def _parse(block: bytes, offset: int) -> tuple[str, int, bytes | None]:
    """Name, size and type of a header block; type None for a block of zeros."""
    # The low half of Adler-32 is one plus the sum of the bytes, modulo 65521: twenty times faster than sum().
    total = (zlib.adler32(block) & 0xFFFF) - 1
    field = block[148:156]
    try:
        checksum = int(field.rstrip(b"\0 ") or b"x", 8)
    except ValueError:
        if block == _ZERO:
            return "", 0, None
        raise ShardFormatError("this is not a tar header (no checksum)", offset=offset) from None
    if (total - sum(field) + 8 * 0x20 - checksum) % 65521:
        raise ShardFormatError("a tar header does not match its checksum: the archive is damaged", offset=offset)
    raw = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345]:
        raw = block[345:500].split(b"\0", 1)[0] + b"/" + raw
    name = raw.decode("utf-8", "surrogateescape")
    return name, _number(block[124:136], offset), block[156:157]


def _number(field: bytes, offset: int) -> int:
    if field[0] & 0x80:  # GNU base-256, for sizes of 8 GiB and more
        value = int.from_bytes(field, "big", signed=False) & ((1 << 95) - 1)
        if field[0] & 0x40 or value >= 1 << 62:
            raise ShardFormatError("a tar header gives an impossible size", offset=offset)
        return value
    try:
        value = int(field.rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        value = -1
    if value < 0:
        raise ShardFormatError(f"a tar header gives the size {field!r}, which is no octal number", offset=offset)
    return value


def _parse_pax(body: bytes, offset: int) -> dict[str, str]:
    records: dict[str, str] = {}
    at = 0
    while at < len(body) and body[at] != 0:
        space = body.find(b" ", at, at + 20)
        digits = body[at:space] if space >= 0 else b""
        if not digits.isdigit():
            raise ShardFormatError("a PAX header is malformed", offset=offset)
        length = int(digits)
        end = at + length
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if length <= space + 1 - at or end > len(body) or body[end - 1 : end] != b"\n" or not equals:
            raise ShardFormatError("a PAX header is malformed", offset=offset)
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at = end
    if any(key.startswith("GNU.sparse") for key in records):
        raise ShardFormatError("sparse members cannot be read; store the file whole", offset=offset)
    return records


def _pax_size(pax: dict[str, str], size: int, offset: int) -> int:
    if "size" not in pax:
        return size
    if not pax["size"].isdecimal() or len(pax["size"]) > 18:
        raise ShardFormatError("a PAX header gives an impossible size", offset=offset)
    return int(pax["size"])


_REFUSED = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device",
    b"6": "a FIFO", b"S": "a sparse file", b"M": "a continuation of another volume",
}  # fmt: skip


def _check_member(name: str, typeflag: bytes, offset: int) -> None:
    if typeflag not in (b"0", b"\0", b"7"):
        what = _REFUSED.get(typeflag, f"of unknown type {typeflag!r}")
        raise ShardFormatError(f"the member {name!r} is {what}; a shard holds regular files only", offset=offset)
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise ShardFormatError(f"the member name {name!r} leads out of the archive", offset=offset)
