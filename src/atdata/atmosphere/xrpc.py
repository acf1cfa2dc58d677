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

from atdata.atmosphere.http import MAX_ANSWER, Answer, Headers, Http, Reply, retry_wait
from atdata.atmosphere.syntax import shown
from atdata.errors import LoginError, RateLimitError, SwapError, XrpcError

__all__ = ["Auth", "Params", "Xrpc"]

Params = Mapping[str, str | int | bool | Iterable[str]]
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

    def query(self, nsid: str, params: Params | None = None) -> dict[str, Any]:
        """Call a method that reads, and take its JSON.

        Raises:
            XrpcError: the server says no.
            UnreachableError: it says nothing.
        """
        return self._json(nsid, self._call("GET", nsid, params))

    def query_bytes(self, nsid: str, params: Params | None = None, *, limit: int = MAX_ANSWER) -> bytes:
        """Call a method that reads, and take the bytes that it gives."""
        return self._call("GET", nsid, params, limit=limit).body

    def procedure(
        self, nsid: str, body: Mapping[str, Any] | None = None, *, again: bool = False, params: Params | None = None
    ) -> dict[str, Any]:
        """Call a method that changes something.

        Args:
            nsid: its name.
            body: its input.
            again: whether it may be called again when it may have been carried out already.
            params: its parameters.

        Raises:
            XrpcError: the server says no.
            UnreachableError: it says nothing; unless `again`, whether it did what was asked is not known then.
        """
        content = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        kind = {} if body is None else {"content-type": "application/json"}
        return self._json(nsid, self._call("POST", nsid, params, content=content, headers=kind, again=again))

    def upload(
        self, nsid: str, content: Callable[[], Iterable[bytes]], size: int, mime: str, *, again: bool = True
    ) -> dict[str, Any]:
        """Call a method that takes bytes, which are sent as they come.

        Args:
            nsid: its name.
            content: the bytes, for each try from the beginning.
            size: how many they are.
            mime: their kind.
            again: whether `content` can be called more than once.
        """
        kind = {"content-type": mime, "content-length": str(size)}
        return self._json(
            nsid, self._call("POST", nsid, None, content=content, headers=kind, again=again, once=not again)
        )

    @contextmanager
    def stream(self, nsid: str, params: Params | None = None, headers: Headers | None = None) -> Iterator[Reply]:
        """Call a method that reads, inside a `with` statement; its bytes come in chunks."""
        url = self.url(nsid, params)
        sent: dict[str, str] = {}

        def carried() -> Headers:
            return {**(headers or {}), **self._signed("GET", url, sent)}

        for last in (False, True):
            with self.http.stream("GET", url, headers=carried, redirects=True) as reply:
                if reply.status in (200, 206):
                    yield reply
                    return
                body = b"".join(reply.chunks) if (reply.length or 0) < 1 << 20 else b""
            answer = Answer(reply.status, reply.headers, body, reply.url)
            if last or not self._answered(sent, answer):
                raise self._error(nsid, answer)

    def length(self, nsid: str, params: Params | None = None) -> int:
        """The bytes that a method would give, asked for without them."""
        answer = self._call("HEAD", nsid, params)
        said = answer.headers.get("content-length", "")
        if not (said.isascii() and said.isdigit()):
            raise XrpcError(f"{nsid}: the server does not say how long its answer is", nsid=nsid, url=self.base)
        return int(said)

    def url(self, nsid: str, params: Params | None = None) -> str:
        """The URL of a method with its parameters."""
        return f"{self.base}/xrpc/{nsid}" + (f"?{_encoded(params)}" if params else "")

    def _call(
        self,
        method: str,
        nsid: str,
        params: Params | None,
        *,
        content: bytes | Callable[[], Iterable[bytes]] | None = None,
        headers: Headers | None = None,
        limit: int = MAX_ANSWER,
        again: bool = True,
        once: bool = False,
    ) -> Answer:
        url = self.url(nsid, params)
        sent: dict[str, str] = {}

        def carried() -> Headers:
            return {**(headers or {}), **self._signed(method, url, sent)}

        for _ in range(1 if once else 3):
            answer = self.http.ask(
                method,
                url,
                headers=carried,
                content=content,
                limit=limit,
                again=again,
                redirects=method != "POST",
            )
            if answer.status == 200:
                self._answered(sent, answer)
                return answer
            if not self._answered(sent, answer):
                break
        raise self._error(nsid, answer)

    def _signed(self, method: str, url: str, sent: dict[str, str]) -> Headers:
        sent.clear()
        if self.auth is not None:
            sent.update(self.auth.headers(method, url))
        return sent

    def _answered(self, sent: Headers, answer: Answer) -> bool:
        if self.auth is None:
            return False
        return self.auth.answered(sent, answer.status, answer.headers, _error_of(answer)[0])

    def _json(self, nsid: str, answer: Answer) -> dict[str, Any]:
        if not answer.body:
            return {}
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError):
            found = None
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
        said = f"{nsid}: the server answers {answer.status} {name}".rstrip() + (f": {message}" if message else "")
        place: dict[str, Any] = {"status": answer.status, "error": name, "nsid": nsid, "url": self.base}
        if answer.status == 429:
            wait = retry_wait(answer.headers)
            when = f"for {wait:.0f} s" if wait is not None else "for a while"
            at = None if wait is None else time.time() + wait
            return RateLimitError(f"{nsid}: the server takes no more requests {when}", retry_at=at, **place)
        if name == "InvalidSwap":
            return SwapError(f"{nsid}: somebody else changed it meanwhile; read it again: {message}", **place)
        if answer.status == 401:
            return LoginError(
                f"{nsid}: the server wants a login ({name or 401}); say who you are with Atmosphere.login",
                url=self.base,
            )
        return XrpcError(said, **place)


def _error_of(answer: Answer) -> tuple[str, str]:
    """Name and message of an error, both a stranger's text."""
    if answer.status == 200:
        return "", ""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
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
