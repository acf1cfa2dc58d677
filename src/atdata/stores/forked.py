"""Reading S3 without obstore, in processes that were forked from one that had used it.

By the standard library and signatures of our own, with the retries, time-outs, version checks and errors that obstore's
reads have. Connections are kept for the next request, and every thread that asks has one of its own meanwhile.
"""

from __future__ import annotations

import base64
import html
import http.client
import os
import random
import re
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from atdata.errors import AccessDeniedError, DatasetNotFoundError, IntegrityError, StoreError
from atdata.stores.answers import Answer, denied, explained
from atdata.stores.signing import Keys, presigned, query_string, quoted_path, signed_headers

__all__ = ["ForkedReader"]

_CONNECT = 5.0  # seconds
_SILENCE = 20.0  # seconds without any byte
_PIECE = 64 << 10  # most bytes that are lost, and asked for again, when a connection breaks
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class _AgainError(Exception):
    """Worth another try, after a while if the server said so."""

    def __init__(self, text: str, after: float = 0.0) -> None:
        super().__init__(text)
        self.after = after


class _Wanted:
    """One request, and what has come of its answer."""

    def __init__(self, url: str, method: str, path: str, query: str = "") -> None:
        self.url = url
        self.method = method
        self.path = path
        self.query = query
        self.start = 0
        self.stop: int | None = None
        self.etag: str | None = None
        self.size = 0
        self.data = bytearray()
        self.got = 0

    def headers(self) -> dict[str, str]:
        """What makes it the missing range of the right version."""
        found = {}
        at = self.start + self.got
        if self.stop is not None or at:
            found["range"] = f"bytes={at}-{'' if self.stop is None else self.stop - 1}"
        if self.etag is not None:
            found["if-match"] = self.etag
        return found

    def take(self, answer: http.client.HTTPResponse, until: float) -> None:
        """Read an answer's body, as far as it comes."""
        length = answer.headers.get("Content-Length", "")
        if self.query:
            self.data[:] = answer.read()
            return
        if not length.isdigit():
            raise _AgainError("the server does not say how long its answer is")
        self.etag = self.etag or answer.headers.get("ETag")
        at, whole = self.start + self.got, answer.headers.get("Content-Range", "")
        if answer.status == 206:
            place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", whole)
            if place is None or int(place[1]) != at:
                raise StoreError("the server gave another range than it was asked for", url=self.url, offset=at)
            self.size = int(place[2])
        elif self.stop is not None or at:
            raise StoreError("the server cannot give a part of an object", url=self.url, offset=at)
        else:
            self.size = int(length)
        if self.method == "HEAD":
            answer.read()  # nothing, which ends it
            return
        end = self.got + int(length)
        if self.stop is not None and end > self.stop - self.start:
            raise StoreError("the server gave more than it was asked for", url=self.url, offset=at)
        if len(self.data) != end:
            self.data += bytes(end - len(self.data))
        view = memoryview(self.data)
        while self.got < end:
            count = answer.readinto(view[self.got : min(self.got + _PIECE, end)])
            self.got += count
            if not count:
                raise _AgainError("the connection was cut")
            if time.monotonic() > until:
                raise _AgainError("it takes too long")


class ForkedReader:
    """Reads the objects of one bucket.

    Args:
        base: the URL of the store, `s3://bucket/`.
        root: the web address of the bucket, without a slash at its end.
        region: of the bucket.
        keys: gives who asks; None for nobody in particular.
        retries: as obstore takes them.
    """

    def __init__(
        self, base: str, root: str, region: str, keys: Callable[[], Keys] | None, retries: Mapping[str, Any]
    ) -> None:
        address = urlsplit(root)
        self._base = base
        self._secure = address.scheme == "https"
        default = 443 if self._secure else 80
        self._host, self._port = address.hostname or "", address.port or default
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self._authority = shown if self._port == default else f"{shown}:{self._port}"
        self._folder = address.path + "/"
        self._region = region
        self._keys = keys
        self._retries = retries
        by_proxy = not urllib.request.proxy_bypass(self._host)
        proxy = urllib.request.getproxies().get(address.scheme) if by_proxy else None
        self._proxy = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        # Lists are changed in one step, so that no lock is needed.
        self._idle: list[http.client.HTTPConnection] = []
        self._pid = os.getpid()

    @property
    def foreign(self) -> bool:
        """Whether this was made in another process, which goes on using the connections."""
        return self._pid != os.getpid()

    def head(self, key: str) -> Answer:
        """Size and version of an object, without any of its bytes."""
        wanted = _Wanted(self._base + key, "HEAD", quoted_path(self._folder + key))
        return self._asked(wanted)

    def fetch(self, key: str, start: int | None = None, stop: int | None = None, etag: str | None = None) -> Answer:
        """An object, or its bytes from `start` up to `stop`; of that version only, when one is given."""
        wanted = _Wanted(self._base + key, "GET", quoted_path(self._folder + key))
        wanted.start, wanted.stop, wanted.etag = start or 0, stop, etag
        return self._asked(wanted)

    def keys(self, folder: str) -> Sequence[str]:
        """The keys of all objects under `folder`."""
        found: list[str] = []
        query = {"list-type": "2", "prefix": folder, "encoding-type": "url"}
        while True:
            path = quoted_path(self._folder if self._folder == "/" else self._folder[:-1])
            wanted = _Wanted(self._base + folder, "GET", path, query_string(query))
            text = str(self._asked(wanted).data, "utf-8")
            found += [unquote(html.unescape(key).replace("+", " ")) for key in re.findall("<Key>([^<]*)</Key>", text)]
            more = re.search("<NextContinuationToken>([^<]+)<", text)
            if more is None or "<IsTruncated>true<" not in text:
                return found
            query["continuation-token"] = html.unescape(more[1])

    def presigned(self, key: str) -> str:
        """A URL of an object, good for a day, that anything can read without keys."""
        origin = f"{'https' if self._secure else 'http'}://{self._authority}"
        path = quoted_path(self._folder + key)
        if self._keys is None:
            return origin + path
        return presigned(self._keys(), self._region, origin, path, 86_400, datetime.now(UTC))

    def _asked(self, wanted: _Wanted) -> Answer:
        """What comes of a request, tried as often as makes sense; what was cut goes on where it stopped."""
        until = time.monotonic() + self._retries["retry_timeout"].total_seconds()
        backoff = self._retries["backoff"]
        least, most = backoff["init_backoff"].total_seconds(), backoff["max_backoff"].total_seconds()
        attempt = 0
        while True:
            before = wanted.got
            try:
                self._once(wanted, until)
                return Answer(memoryview(wanted.data).toreadonly(), wanted.size, wanted.etag)
            except _AgainError as error:
                text, wait = str(error), error.after
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, StoreError):
                    raise
                text, wait = _said(error), 0.0
            attempt = 1 if wanted.got > before else attempt + 1
            wait = wait or min(most, least * backoff["base"] ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            if attempt > self._retries["max_retries"] or time.monotonic() + wait > until:
                raise StoreError(f"the server cannot be read, also when asked {attempt} times: {text}", url=wanted.url)
            time.sleep(wait)

    def _once(self, wanted: _Wanted, until: float) -> None:
        headers = {"host": self._authority, **wanted.headers()}
        if self._keys is not None:
            now = datetime.now(UTC)
            headers = signed_headers(self._keys(), self._region, wanted.method, wanted.path, wanted.query, headers, now)
        connection, answer = self._sent(wanted, {**headers, "accept-encoding": "identity", "user-agent": "atdata"})
        try:
            if answer.status not in (200, 206):
                raise _refusal(wanted, answer)
            wanted.take(answer, until)
        except BaseException:
            connection.close()
            raise
        if answer.isclosed() and not answer.will_close:
            self._idle.append(connection)
        else:
            connection.close()

    def _sent(
        self, wanted: _Wanted, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The connection that a request was sent by, and the beginning of the answer."""
        target = wanted.path + (f"?{wanted.query}" if wanted.query else "")
        if self._proxy is not None and not self._secure:
            target, headers = f"http://{self._authority}{target}", {**headers, **self._for_proxy()}
        while True:
            try:
                connection, kept = self._idle.pop(), True
            except IndexError:
                connection, kept = self._connected(), False
            try:
                connection.request(wanted.method, target, headers=headers)
                return connection, connection.getresponse()
            except BaseException as error:
                connection.close()
                # The server may close a connection that waits; that it has done so is not known before it is used.
                if not (kept and isinstance(error, ConnectionError)):
                    raise

    def _connected(self) -> http.client.HTTPConnection:
        via = self._proxy
        host, port = (self._host, self._port) if via is None else (via.hostname or "", via.port or 80)
        made: http.client.HTTPConnection
        if self._secure:
            made = http.client.HTTPSConnection(host, port, timeout=_CONNECT, context=ssl.create_default_context())
            if via is not None:
                made.set_tunnel(self._host, self._port, self._for_proxy())
        else:
            made = http.client.HTTPConnection(host, port, timeout=_CONNECT)
        try:
            made.connect()
        except BaseException:
            made.close()
            raise
        made.sock.settimeout(_SILENCE)
        return made

    def _for_proxy(self) -> dict[str, str]:
        """What a proxy wants to know of who asks."""
        if self._proxy is None or self._proxy.username is None:
            return {}
        who = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
        return {"proxy-authorization": "Basic " + base64.b64encode(who.encode()).decode()}

    def close(self) -> None:
        """Close the connections that wait."""
        while self._idle:
            self._idle.pop().close()

    def __del__(self) -> None:
        self.close()


def _said(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


def _refusal(wanted: _Wanted, answer: http.client.HTTPResponse) -> Exception:
    """What an answer other than the object means."""
    status, url = answer.status, wanted.url
    text = answer.read(_PIECE).decode("utf-8", "replace")
    code = re.search("<Code>([^<]{1,100})</Code>", text)
    if status == 404 and "NoSuchBucket" not in text:
        return DatasetNotFoundError("there is no such object", url=url)
    if status in (401, 403):
        return AccessDeniedError(denied(text), url=url)
    if status == 412:
        return IntegrityError("the object was replaced while it was read; read it again", url=url)
    if status == 416:
        return StoreError("the object is shorter than its record says", url=url, offset=wanted.start + wanted.got)
    said = f"{status} {answer.reason}" + (f", {code[1]}" if code else "")
    if status in _AGAIN:
        after = answer.headers.get("Retry-After", "")
        return _AgainError(f"the server answers {said}", float(after) if after.isdigit() else 0.0)
    return StoreError(explained(said), url=url)
