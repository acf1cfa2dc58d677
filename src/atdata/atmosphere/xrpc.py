"""Calls of methods on a server of the network, and their errors.

Specification: https://atproto.com/specs/xrpc.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlencode

from atdata.atmosphere.http import Answer, Content, Headers, Http, Reply, retry_wait
from atdata.atmosphere.syntax import shown
from atdata.errors import LoginError, RateLimitError, RecordError, SwapError, XrpcError

__all__ = ["MAX_JSON", "Auth", "Params", "Xrpc", "as_json", "parse_json"]

Params = Mapping[str, str | int | bool | Iterable[str]]
MAX_JSON = 16 << 20  # bytes of an answer; as objects they take several times that
_NAME = re.compile(r"[A-Za-z0-9_]{1,100}", re.ASCII)


class Auth(Protocol):
    """Who is logged in, and how requests say so. Threads share one."""

    @property
    def did(self) -> str:
        """The account."""

    def headers(self, method: str, url: str) -> Headers:
        """What a request has to carry; asked for each try."""

    def answered(self, sent: Headers, status: int, headers: Headers, error: str) -> bool:
        """Look at an answer; True when the request is worth sending again, with new headers.

        Args:
            sent: what `headers` gave for the request.
            status: of the answer.
            headers: of the answer.
            error: the error's name, where it is one.
        """


class Xrpc:
    """The methods of one server.

    Args:
        base: its URL, `https://host`.
        http: the connections to use.
        auth: whom the calls are by; None for nobody.
    """

    def __init__(self, base: str, http: Http, auth: Auth | None = None) -> None:
        self.base = base.rstrip("/")
        self.http = http
        self.auth = auth

    def query(self, nsid: str, params: Params | None = None, *, limit: int = MAX_JSON) -> dict[str, Any]:
        """Call a method that reads, and take its JSON.

        Args:
            nsid: its name.
            params: its parameters.
            limit: bytes of the answer.

        Raises:
            XrpcError: the server says no.
            UnreachableError: it says nothing.
            OversizeError: it says more than `limit` bytes.
        """
        return self._json(nsid, self._call("GET", nsid, params, limit=limit))

    def query_bytes(self, nsid: str, params: Params | None = None, *, limit: int = MAX_JSON) -> bytes:
        """Call a method that reads, and take the bytes that it gives."""
        return self._call("GET", nsid, params, limit=limit).body

    def procedure(self, nsid: str, body: Mapping[str, Any] | None = None, *, again: bool = False) -> dict[str, Any]:
        """Call a method that changes something.

        Args:
            nsid: its name.
            body: its input.
            again: whether it may be called again when it may have been carried out already.

        Raises:
            XrpcError: the server says no.
            UnreachableError: it says nothing; unless `again`, whether it did what was asked is not known then.
            RecordError: the input is nothing that JSON can say.
        """
        if body is None:
            return self._json(nsid, self._call("POST", nsid, None, again=again))
        kind = {"content-type": "application/json"}
        return self._json(nsid, self._call("POST", nsid, None, content=as_json(body), headers=kind, again=again))

    def upload(
        self, nsid: str, content: Callable[[], Iterable[bytes]], size: int, mime: str, *, again: bool = True
    ) -> dict[str, Any]:
        """Call a method that takes bytes, which are sent as they come.

        Args:
            nsid: its name.
            content: gives the bytes, for each try from the beginning.
            size: how many they are.
            mime: their kind.
            again: whether `content` can be called more than once.
        """
        kind = {"content-type": mime, "content-length": str(size)}
        return self._json(
            nsid, self._call("POST", nsid, None, content=content, headers=kind, again=again, once=not again)
        )

    def length(self, nsid: str, params: Params | None = None) -> int:
        """The bytes that a method would give, asked for without them."""
        said = self._call("HEAD", nsid, params).headers.get("content-length", "")
        if not (said.isascii() and said.isdigit()):
            raise XrpcError(f"{nsid}: the server does not say how long its answer is", nsid=nsid, url=self.base)
        return int(said)

    @contextmanager
    def stream(self, nsid: str, params: Params | None = None, headers: Headers | None = None) -> Iterator[Reply]:
        """Call a method that reads, inside a `with` statement; its bytes come in chunks."""
        with self.http.stream(self.url(nsid, params), headers=headers, redirects=True) as reply:
            if reply.status not in (200, 206):
                raise self._error(nsid, Answer(reply.status, reply.headers, b"".join(reply.chunks), reply.url))
            yield reply

    def url(self, nsid: str, params: Params | None = None) -> str:
        """The URL of a method with its parameters."""
        return f"{self.base}/xrpc/{nsid}" + (f"?{_encoded(params)}" if params else "")

    def _call(
        self,
        method: str,
        nsid: str,
        params: Params | None,
        *,
        content: Content | None = None,
        headers: Headers | None = None,
        limit: int = MAX_JSON,
        again: bool = True,
        once: bool = False,
    ) -> Answer:
        url = self.url(nsid, params)
        sent: Headers = {}

        def sign() -> Headers:
            nonlocal sent
            sent = {} if self.auth is None else self.auth.headers(method, url)
            return sent

        # More than once is for a token that is over, and for a nonce (RFC 9449, 8) that came with that answer.
        for _ in range(3):
            answer = self.http.ask(
                method,
                url,
                limit=limit,
                headers=headers,
                sign=sign,
                content=content,
                again=again,
                redirects=method != "POST",
            )
            error = "" if answer.status == 200 else _error_of(answer)[0]
            fresh = self.auth is not None and self.auth.answered(sent, answer.status, answer.headers, error)
            if answer.status == 200:
                return answer
            if not fresh or once:
                break
        raise self._error(nsid, answer)

    def _json(self, nsid: str, answer: Answer) -> dict[str, Any]:
        found = parse_json(answer.body) if answer.body else {}
        if not isinstance(found, dict):
            raise XrpcError(
                f"{nsid}: the server answers with what is no JSON object",
                status=answer.status,
                nsid=nsid,
                url=self.base,
            )
        return found

    def _error(self, nsid: str, answer: Answer) -> XrpcError | LoginError:
        name, message = _error_of(answer)
        place: dict[str, Any] = {"status": answer.status, "error": name, "nsid": nsid, "url": self.base}
        colon = f": {message}" if message else ""
        if answer.status == 429:
            wait = retry_wait(answer.headers)
            when = f"for {wait:.0f} s" if wait is not None else "for a while"
            at = None if wait is None else time.time() + wait
            return RateLimitError(f"{nsid}: the server takes no more requests {when}{colon}", retry_at=at, **place)
        if name == "InvalidSwap":
            return SwapError(f"{nsid}: somebody else changed it meanwhile, read it again{colon}", **place)
        if answer.status == 413:
            return XrpcError(f"{nsid}: this is more than the server takes (413){colon}", **place)
        if answer.status == 401:
            said = f"{nsid}: the server wants another login ({name or 401}){colon}"
            return LoginError(said, error=name, url=self.base)
        return XrpcError(f"{nsid}: the server answers {answer.status} {name}".rstrip() + colon, **place)


def parse_json(data: bytes) -> Any:
    """What JSON says, strictly: no NaN, no surrogates; None where it is none."""
    import msgspec

    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return None


def as_json(body: Mapping[str, Any]) -> bytes:
    """The JSON of a record or an input.

    Raises:
        RecordError: it is nothing that JSON can say.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"a record is to be JSON: {error}") from None


def _error_of(answer: Answer) -> tuple[str, str]:
    """Name and message of an error, both a stranger's text."""
    found = parse_json(answer.body)
    if not isinstance(found, dict):
        return "", ""
    name, message = found.get("error"), found.get("message")
    name = name if isinstance(name, str) and _NAME.fullmatch(name) else ""
    return name, shown(message, 300)[1:-1] if isinstance(message, str) and message != name else ""


def _encoded(params: Params) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in params.items():
        if isinstance(value, bool):
            pairs.append((name, "true" if value else "false"))
        elif isinstance(value, str | int):
            pairs.append((name, str(value)))
        else:
            pairs += [(name, each) for each in value]
    return urlencode(pairs)
