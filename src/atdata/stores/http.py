"""Reading shards over plain http and https, presigned URLs included."""

from __future__ import annotations

import contextlib
import http.client
import io
import random
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import IO, Any

from atdata.errors import AccessDeniedError, DatasetNotFoundError, IntegrityError, StoreError
from atdata.stores.base import StoredObject

__all__ = ["HttpObject", "public_url"]

_TRIES = 6
_TIMEOUT = 20.0  # seconds without any byte
_DEADLINE = 120.0  # seconds for one range, all tries together
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_PIECE = 256 << 10


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http or to another scheme."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://") and not (
            newurl.startswith("http://") and req.full_url.startswith("http://")
        ):
            raise StoreError(
                f"the server redirects to {newurl.split('?')[0]}, which is not followed", url=public_url(req.full_url)
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_SameKind)


def public_url(url: str) -> str:
    """A URL for messages: of one on the web, the part before the query, which may be a signature."""
    return url.split("?", 1)[0] if url.lower().startswith(("http://", "https://")) else url


class HttpObject(StoredObject):
    """A file on a web server.

    Args:
        address: its http or https URL; a query is sent but never shown.
        size: its size when known already.
    """

    def __init__(self, address: str, size: int | None = None) -> None:
        self.url = public_url(address)
        if "@" in urllib.parse.urlsplit(address).netloc:
            _, _, rest = self.url.partition("@")
            raise StoreError("a URL with a name and password is not read; give one without", url=f"…@{rest}")
        # Spaces and what is not ASCII are quoted; what is quoted already stays as it is.
        self._address = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")
        self._size = size
        self.etag: str | None = None
        self._whole: bytes | None = None
        self._ranges: bool | None = None  # whether the server knows them
        self._first = threading.Lock()

    @property
    def size(self) -> int:  # type: ignore[override]
        """Its length in bytes."""
        if self._size is None:
            self._ask(0, 1)
        assert self._size is not None
        return self._size

    def fetch(self, start: int, stop: int) -> memoryview:
        """The bytes from `start` up to `stop`."""
        if start >= stop:
            return memoryview(b"")
        if self._ranges is None:  # until that is known, one at a time: or each would be given the whole file
            with self._first:
                if self._ranges is None:
                    return self._ask(start, stop)
        if self._whole is not None:
            return self._of_whole(start, stop)
        return self._ask(start, stop)

    def _of_whole(self, start: int, stop: int) -> memoryview:
        assert self._whole is not None
        if stop > len(self._whole):
            raise StoreError(f"the file has {len(self._whole)} bytes, shorter than its record says", url=self.url)
        return memoryview(self._whole)[start:stop]

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        return bytes(self.fetch(start, stop))

    def whole(self) -> bytes:
        """The whole file in one request; DatasetNotFoundError when there is none."""
        return bytes(self._ask(None, None))

    def chunks(self) -> Iterator[memoryview]:
        """The file from the beginning, in bounded ranges."""
        for start in range(0, self.size, 8 << 20):
            yield self.fetch(start, min(start + (8 << 20), self.size))

    def stream(self) -> IO[bytes]:
        """The file from the beginning, in bounded ranges."""
        return io.BufferedReader(_Ranges(self), 1 << 20)

    def _ask(self, start: int | None, stop: int | None) -> memoryview:
        """One range (or everything), tried again as often as makes sense; a cut body goes on where it stopped."""
        until = time.monotonic() + _DEADLINE
        got = bytearray()
        last: str = ""
        attempt = 0
        while attempt < _TRIES:
            before = len(got)
            wait = min(10.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311  (jitter)
            try:
                self._try(start, stop, got)
                if start is None or stop is None or len(got) == stop - start:
                    return memoryview(got)
                if start == 0 and self._size is not None and len(got) == min(stop, self._size):
                    return memoryview(got)
                last = "the body was cut"
            except urllib.error.HTTPError as error:
                last, wait = self._refused(error, wait)
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, StoreError):
                    raise
                reason = getattr(error, "reason", error)
                last = (
                    "no answer in time" if isinstance(reason, socket.timeout) else str(reason) or type(error).__name__
                )
            if len(got) > before and time.monotonic() < until:
                attempt = 0  # it goes on, if in small steps
                continue
            attempt += 1
            if attempt == _TRIES or time.monotonic() + wait > until:
                break
            time.sleep(wait)
        raise StoreError(
            f"the server cannot be read, also when asked {attempt or 1} times: {last}", url=self.url, offset=start
        )

    def _try(self, start: int | None, stop: int | None, got: bytearray) -> None:
        headers = {"Accept-Encoding": "identity", "User-Agent": "atdata"}
        at = (start or 0) + len(got)
        ranged = stop is not None or at > 0
        if ranged:
            headers["Range"] = f"bytes={at}-{'' if stop is None else stop - 1}"
        request = urllib.request.Request(self._address, headers=headers)  # noqa: S310  (checked by `opening`)
        with _opener.open(request, timeout=_TIMEOUT) as answer:
            self._note_version(answer.headers.get("ETag"))
            if ranged and answer.status == 200:
                self._take_whole(answer, start or 0, stop, got)
                return
            content_range = answer.headers.get("Content-Range", "")
            if ranged:
                self._ranges = True
                if not content_range.startswith(f"bytes {at}-"):
                    raise StoreError("the server gave another range than it was asked for", url=self.url, offset=at)
            if ranged and content_range.rpartition("/")[2].isdigit():
                self._note_size(int(content_range.rpartition("/")[2]))
            elif not ranged and answer.headers.get("Content-Length", "").isdigit():
                self._note_size(int(answer.headers["Content-Length"]))
            limit = None if stop is None else stop - at
            for piece in _pieces(answer, limit):
                got += piece
            if not ranged and self._size is not None and len(got) < self._size:
                raise http.client.IncompleteRead(b"", self._size - len(got))

    def _take_whole(self, answer: Any, start: int, stop: int | None, got: bytearray) -> None:
        """A server without ranges sends everything: it is kept, so that it is sent once."""
        data = b"".join(_pieces(answer, None))
        length = answer.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != len(data):
            raise http.client.IncompleteRead(b"", int(length) - len(data))
        self._note_size(len(data))
        self._whole = data
        self._ranges = False
        got[:] = data[start:stop] if stop is None or start == 0 else self._of_whole(start, stop)

    def _note_size(self, size: int) -> None:
        if self._size is not None and size != self._size:
            raise IntegrityError(
                "the file was cut, or replaced since its record was read",
                url=self.url,
                expected=self._size,
                got=size,
            )
        self._size = size

    def _note_version(self, etag: str | None) -> None:
        if self.etag is None:
            self.etag = etag
        elif etag is not None and etag != self.etag:
            raise IntegrityError("the file was replaced while it was read; read it again", url=self.url)

    def _refused(self, error: urllib.error.HTTPError, wait: float) -> tuple[str, float]:
        with contextlib.suppress(OSError):
            error.close()
        if error.code in (404, 410):
            raise DatasetNotFoundError("there is no such file", url=self.url) from None
        if error.code in (401, 403):
            expired = "?" in self._address
            hint = "; a presigned URL may have expired: ask its store for a new one" if expired else ""
            raise AccessDeniedError(f"the server denies access ({error.code}){hint}", url=self.url) from None
        if 300 <= error.code < 400:  # its reason names the target, signature and all
            raise StoreError("the server redirects in a circle, or to where is not followed", url=self.url) from None
        if error.code == 416:
            raise StoreError("the file is shorter than its record says", url=self.url) from None
        if error.code not in _AGAIN:
            raise StoreError(f"the server answers {error.code} {error.reason}", url=self.url) from None
        after = error.headers.get("Retry-After", "") if error.headers else ""
        return f"the server answers {error.code} {error.reason}", float(after) if after.isdigit() else wait


def _pieces(answer: Any, limit: int | None) -> Iterator[bytes]:
    while limit is None or limit > 0:
        # `read` would lose what had come of a piece when the connection breaks.
        piece = answer.read1(_PIECE if limit is None else min(_PIECE, limit))
        if not piece:
            return
        if limit is not None:
            limit -= len(piece)
        yield piece


class _Ranges(io.RawIOBase):
    """A readable stream over ranged requests."""

    def __init__(self, file: HttpObject) -> None:
        self._file = file
        self._at = 0
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece and self._at < self._file.size:
            stop = min(self._at + (8 << 20), self._file.size)
            self._piece = self._file.fetch(self._at, stop)
            self._at = stop
        n = min(len(buffer), len(self._piece))
        buffer[:n] = self._piece[:n]
        self._piece = self._piece[n:]
        return n
