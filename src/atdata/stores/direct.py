"""Reading S3 without obstore: in processes that were forked from one that had used it, and where it failed.

By the standard library and signatures of our own. What obstore does not tell is seen here: how long a server asks to
wait (`Retry-After`), which region a bucket is in, why a request is refused. Connections are kept for the next request,
and every thread that asks has one of its own meanwhile.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from atdata.errors import AccessDeniedError, DatasetNotFoundError, IntegrityError, StoreError
from atdata.stores.answers import DENIALS, Answer, denied, explained
from atdata.stores.signing import Keys, presigned, query_string, quoted_path, signed_headers
from atdata.stores.transport import AGAIN, AgainError, Clock, Patience, Reply, Transport, retry_after

__all__ = ["DirectReader"]

_PIECE = 64 << 10  # most bytes that are lost, and asked for again, when a connection breaks


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

    def take(self, answer: Reply) -> None:
        """Read an answer's body, as far as it comes."""
        length = answer.headers.get("Content-Length", "")
        if self.query:
            self.data[:] = answer.read()
            return
        if not length.isdigit():
            raise AgainError("the server does not say how long its answer is")
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
                raise AgainError("the connection was cut")
        if self.stop is not None and self.start + end < min(self.stop, self.size):
            raise AgainError("the server gave less than it was asked for")


class DirectReader:
    """Reads the objects of one bucket.

    Args:
        base: the URL of the store, `s3://bucket/`.
        root: the web address of the bucket, without a slash at its end.
        region: of the bucket.
        keys: gives who asks; None for nobody in particular.
        retries: as obstore takes them.
        public: see `Transport`.
    """

    def __init__(
        self,
        base: str,
        root: str,
        region: str,
        keys: Callable[[], Keys] | None,
        retries: Mapping[str, Any],
        *,
        public: bool = False,
    ) -> None:
        self._base = base
        self._transport = Transport(root, public=public)
        self._folder = urlsplit(root).path + "/"
        self._region = region
        self._keys = keys
        self._patience = Patience(
            retries["max_retries"] + 1,
            retries["retry_timeout"].total_seconds(),
            retries["backoff"]["init_backoff"].total_seconds(),
            retries["backoff"]["max_backoff"].total_seconds(),
        )
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
            text = self._listed(folder, query)
            found += map(_decoded, re.findall("<Key>([^<]*)</Key>", text))
            more = re.search("<NextContinuationToken>([^<]+)<", text)
            if more is None or "<IsTruncated>true<" not in text:
                return found
            query["continuation-token"] = html.unescape(more[1])

    def uploads(self, folder: str) -> Sequence[tuple[str, str]]:
        """The unfinished multipart uploads of objects under `folder`: key, and the server's name for the upload."""
        found: list[tuple[str, str]] = []
        query = {"uploads": "", "prefix": folder, "encoding-type": "url"}
        while True:
            text = self._listed(folder, query)
            for upload in re.findall("<Upload>(.*?)</Upload>", text, re.DOTALL):
                key, name = (re.search(f"<{tag}>([^<]*)<", upload) for tag in ("Key", "UploadId"))
                if key is not None and name is not None:
                    found.append((_decoded(key[1]), html.unescape(name[1])))
            key, name = (re.search(f"<Next{tag}Marker>([^<]+)<", text) for tag in ("Key", "UploadId"))
            if key is None or name is None or "<IsTruncated>true<" not in text:
                return found
            query |= {"key-marker": _decoded(key[1]), "upload-id-marker": html.unescape(name[1])}

    def drop_upload(self, key: str, upload: str) -> None:
        """Abort a multipart upload: its parts are gone, and not billed any more."""
        path, query = quoted_path(self._folder + key), query_string({"uploadId": upload})
        with contextlib.suppress(DatasetNotFoundError):  # somebody else did
            self._asked(_Wanted(self._base + key, "DELETE", path, query))

    def _listed(self, folder: str, query: Mapping[str, str]) -> str:
        """The answer to a question about the bucket."""
        path = quoted_path(self._folder if self._folder == "/" else self._folder[:-1])
        return str(self._asked(_Wanted(self._base + folder, "GET", path, query_string(query))).data, "utf-8")

    def presigned(self, key: str) -> str:
        """A URL of an object, good for a day, that anything can read without keys."""
        origin = self._transport.origin
        path = quoted_path(self._folder + key)
        if self._keys is None:
            return origin + path
        return presigned(self._keys(), self._region, origin, path, 86_400, datetime.now(UTC))

    def _asked(self, wanted: _Wanted) -> Answer:
        """What comes of a request, tried as often as makes sense; what was cut goes on where it stopped."""
        self._patience.insist(wanted.url, partial(self._once, wanted), lambda: wanted.got)
        return Answer(memoryview(wanted.data).toreadonly(), wanted.size, wanted.etag)

    def _once(self, wanted: _Wanted, clock: Clock) -> None:
        headers = {"host": self._transport.authority, **wanted.headers()}
        if self._keys is not None:
            now = datetime.now(UTC)
            headers = signed_headers(self._keys(), self._region, wanted.method, wanted.path, wanted.query, headers, now)
        target = wanted.path + (f"?{wanted.query}" if wanted.query else "")
        with self._transport.ask(wanted.method, target, headers, clock) as answer:
            if answer.status not in (200, 204, 206):
                raise self._refusal(wanted, answer)
            wanted.take(answer)

    def _refusal(self, wanted: _Wanted, answer: Reply) -> Exception:
        """What an answer other than the object means."""
        status, url = answer.status, wanted.url
        text = answer.read(_PIECE).decode("utf-8", "replace")
        code = re.search("<Code>([^<]{1,100})</Code>", text)
        region = (
            answer.headers.get("x-amz-bucket-region") or (re.findall("<Region>([^<]{1,50})</Region>", text) or [""])[0]
        )
        if region not in ("", self._region) and 300 <= status < 500 and status != 404:
            return StoreError(
                f"the bucket is in the region {region}, not {self._region}: set AWS_REGION to it", url=url
            )
        if status == 404 and "NoSuchBucket" not in text:
            return DatasetNotFoundError("there is no such object", url=url)
        if status in (401, 403) or DENIALS.search(text):
            return AccessDeniedError(denied(text), url=url)
        if status == 412:
            return IntegrityError("the object was replaced while it was read; read it again", url=url)
        if status == 416:
            return StoreError("the object is shorter than its record says", url=url, offset=wanted.start + wanted.got)
        said = f"{status} {answer.reason}" + (f", {code[1]}" if code else "")
        if status in AGAIN:
            return AgainError(f"the server answers {said}", retry_after(answer.headers.get("Retry-After", "")))
        return StoreError(explained(said), url=url)

    def close(self) -> None:
        """Close the connections that wait."""
        self._transport.close()


def _decoded(key: str) -> str:
    """A key as it stands in a listing."""
    return unquote(html.unescape(key).replace("+", " "))
