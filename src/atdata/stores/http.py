"""Reading shards over plain http and https, presigned URLs included."""

from __future__ import annotations

import http.client
import threading
from functools import partial
from typing import Any
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from atdata.atmosphere.guard import check_url
from atdata.errors import AccessDeniedError, DatasetNotFoundError, IntegrityError, StoreError
from atdata.stores.base import StoredObject
from atdata.stores.transport import AGAIN, AgainError, Clock, Patience, Reply, Transport, retry_after

__all__ = ["HttpObject", "Web", "public_url", "redirected"]

_PATIENCE = Patience(tries=6, seconds=120.0)
_REDIRECTS = 5
_PIECE = 256 << 10
_MOST = 1 << 30  # bytes of an answer that says nothing of its length, or is longer than the range that was asked for


def public_url(url: str) -> str:
    """A URL for messages: of one on the web, the part before the query, which may be a signature."""
    return url.split("?", 1)[0] if url.lower().startswith(("http://", "https://")) else url


def redirected(url: str, location: str) -> str:
    """Where a redirect leads.

    Raises:
        StoreError: from https to http, or to what is no web address.
    """
    target = urldefrag(urljoin(url, location)).url
    allowed = ("https://",) if url.startswith("https://") else ("https://", "http://")
    parts = urlsplit(target)
    if not target.lower().startswith(allowed) or "@" in parts.netloc:
        place = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise StoreError(f"the server redirects to {place}, which is not followed", url=public_url(url))
    return _quoted(target)


def _quoted(address: str) -> str:
    """Spaces and what is not ASCII are quoted; what is quoted already stays as it is."""
    return quote(address, safe="%/:=&?~#+!$,;'@()*[]")


class Web:
    """Connections to web servers, kept for the next request.

    Args:
        public: connect only to addresses of the public internet, and only by https: for what strangers name.
    """

    def __init__(self, *, public: bool = False) -> None:
        self.public = public
        self._transports: dict[str, Transport] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_web, (self.public,))

    def ask(self, address: str, headers: dict[str, str], clock: Clock) -> Reply:
        """GET an address."""
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"
        if self.public:
            check_url(address, allow_private=False)
        transport = self._transports.get(origin)
        if transport is None:
            transport = self._transports.setdefault(origin, Transport(origin, public=self.public))
        return transport.ask("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers, clock)


def _web(public: bool) -> Web:
    return Web(public=public)


class HttpObject(StoredObject):
    """A file on a web server.

    Args:
        address: its http or https URL; a query is sent but never shown.
        size: its size when known already.
        web: the connections to use.
    """

    def __init__(self, address: str, size: int | None = None, web: Web | None = None) -> None:
        self.url = public_url(address)
        if "@" in urlsplit(address).netloc:
            _, _, rest = self.url.partition("@")
            raise StoreError("a URL with a name and password is not read; give one without", url=f"…@{rest}")
        self._address = _quoted(address)
        self._target = self._address  # where redirects led
        self._web = web or Web()
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
        if self._size is not None and stop > self._size:
            raise StoreError(f"the file has {self._size} bytes, shorter than its record says", url=self.url)
        if self._ranges is None:  # until that is known, one at a time: or each would be given the whole file
            with self._first:
                if self._ranges is None:
                    return self._exactly(start, stop)
        if self._whole is not None:
            return memoryview(self._whole)[start:stop]
        return self._exactly(start, stop)

    def _exactly(self, start: int, stop: int) -> memoryview:
        data = self._ask(start, stop)
        if len(data) != stop - start:
            raise StoreError(f"the file has {self._size} bytes, shorter than its record says", url=self.url)
        return data

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        return bytes(self.fetch(start, stop))

    def whole(self) -> bytes:
        """The whole file in one request; DatasetNotFoundError when there is none."""
        return bytes(self._ask(None, None))

    def _ask(self, start: int | None, stop: int | None) -> memoryview:
        """One range (or everything), tried again as often as makes sense; a cut body goes on where it stopped."""
        got = bytearray()
        try:
            _PATIENCE.insist(self.url, partial(self._try, start, stop, got), lambda: len(got))
        except StoreError as error:
            error.at(offset=start)
            raise
        return memoryview(got)

    def _try(self, start: int | None, stop: int | None, got: bytearray, clock: Clock) -> None:
        headers = {}
        at = (start or 0) + len(got)
        ranged = stop is not None or at > 0
        if ranged:
            headers["range"] = f"bytes={at}-{'' if stop is None else stop - 1}"
        with self._answer(headers, clock) as answer:
            if answer.status == 416:
                self._past_the_end(answer, at)
                return
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
            self._read(answer, None if stop is None else stop - at, got)
        # What begins at 0 may end before it was said to: a small file, of which nothing was known.
        wanted = self._size if start is None else stop if self._size is None or start else min(stop or 0, self._size)
        if wanted is not None and len(got) < wanted - (start or 0):
            raise AgainError("the body was cut")

    def _past_the_end(self, answer: Reply, at: int) -> None:
        """What asks for the first byte of an empty file is told so too."""
        size = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if size.isdigit():
            self._note_size(int(size))
        if at or size != "0":
            raise StoreError("the file is shorter than its record says", url=self.url)

    def _read(self, answer: Reply, limit: int | None, got: bytearray) -> None:
        """A body, as far as it comes: what came stays when the connection breaks."""
        most = len(got) + limit if limit is not None else self._size or _MOST
        while len(got) < most:
            piece = answer.read1(min(_PIECE, most - len(got)))
            if not piece:
                return
            got += piece
        if limit is None and self._size is None:
            raise StoreError(f"the file is larger than {_MOST} bytes, and the server cannot give a part", url=self.url)

    def _take_whole(self, answer: Reply, start: int, stop: int | None, got: bytearray) -> None:
        """A server without ranges sends everything: it is kept, so that it is sent once."""
        data = bytearray()
        length = answer.headers.get("Content-Length", "")
        if length.isdigit():
            self._note_size(int(length))
        self._read(answer, None, data)
        if length.isdigit() and int(length) != len(data):
            raise http.client.IncompleteRead(b"", int(length) - len(data))
        self._note_size(len(data))
        self._whole = bytes(data)
        self._ranges = False
        got[:] = data[start:stop]

    def _answer(self, headers: dict[str, str], clock: Clock) -> Reply:
        """The answer with the file, where redirects lead to."""
        for _ in range(_REDIRECTS + 1):
            answer = self._web.ask(self._target, headers, clock)
            if answer.status in (200, 206, 416):
                return answer
            with answer:
                answer.read(64 << 10)
            if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                self._target = redirected(self._target, answer.headers["Location"])
            elif answer.status in (400, 401, 403, 404, 410) and self._target != self._address:
                self._target = self._address  # where it led to was good for a while only
            else:
                raise self._refusal(answer)
        raise StoreError("the server redirects in a circle, or too often", url=self.url)

    def _refusal(self, answer: Reply) -> Exception:
        said = f"the server answers {answer.status} {answer.reason}"
        if answer.status in AGAIN:
            return AgainError(said, retry_after(answer.headers.get("Retry-After", "")))
        if answer.status in (404, 410):
            return DatasetNotFoundError("there is no such file", url=self.url)
        if answer.status in (401, 403):
            hint = "; a presigned URL may have expired: ask its store for a new one" if "?" in self._address else ""
            return AccessDeniedError(f"the server denies access ({answer.status}){hint}", url=self.url)
        return StoreError(said, url=self.url)

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
