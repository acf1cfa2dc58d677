"""HTTP requests to servers that strangers name: guarded, bounded, repeated as often as makes sense."""

from __future__ import annotations

import email.utils
import os
import random
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

from atdata.atmosphere.guard import Clock, Connections, Lookup, check_url, connections, needs
from atdata.atmosphere.syntax import shown
from atdata.errors import AtmosphereError, OversizeError, UnreachableError, UnsafeUrlError
from atdata.forks import shared_lock

if TYPE_CHECKING:
    import httpcore

__all__ = ["Answer", "Content", "Headers", "Http", "Reply", "retry_wait"]

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
UNTOUCHED = frozenset({425, 429, 503})  # the server says that it did nothing
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
ERROR_BODY = 64 << 10  # bytes of an error that are read
FIRST, MOST = 0.2, 5.0  # seconds between tries, where the server does not say

Headers = Mapping[str, str]
Content = bytes | Callable[[], Iterable[bytes]]
T = TypeVar("T", "Answer", "Reply")

_making = shared_lock()


class Answer(NamedTuple):
    """An answer that was read whole.

    Attributes:
        status: its number.
        headers: by lower-case names.
        body: its bytes.
        url: where it came from, after redirects.
    """

    status: int
    headers: Headers
    body: bytes
    url: str


class Reply(NamedTuple):
    """An answer whose body is still to be read.

    Attributes:
        status: its number.
        headers: by lower-case names.
        url: where it comes from, after redirects.
        chunks: the body, as it comes; an UnreachableError where it breaks off.
    """

    status: int
    headers: Headers
    url: str
    chunks: Iterator[bytes]

    @property
    def length(self) -> int | None:
        """Bytes of the body, where the server says so."""
        said = self.headers.get("content-length", "")
        return int(said) if said.isascii() and said.isdigit() else None


def retry_wait(headers: Headers) -> float | None:
    """The seconds that a server asks to wait; None when it does not.

    By `Retry-After` (RFC 9110, 10.2.3), or `RateLimit-Reset`, which PDSs give in seconds since the epoch, and the draft
    of the IETF in seconds from now.

    Example:
        >>> retry_wait({"retry-after": "3"}), retry_wait({"ratelimit-reset": "1000000001"}), retry_wait({})
        (3.0, 0.0, None)
    """
    after, reset = headers.get("retry-after", ""), headers.get("ratelimit-reset", "")
    if after.isascii() and after.isdigit():
        return float(after[:12])
    if after:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
        except (TypeError, ValueError, OverflowError):
            return None
    if reset.isascii() and reset.isdigit():
        at = float(reset[:12])
        return max(0.0, at - time.time()) if at > 1e9 else at
    return None


class Http:
    """Requests over connections that are kept. Threads may share one; forked processes get connections of their own.

    Args:
        allow_private: whether plain http, loopback and private addresses may be opened.
        lookup: how names are looked up, instead of the system's way.
        tries: how often a request is sent at most.
        seconds: how long one request may take, all tries together, beyond what moving its bytes takes.
    """

    def __init__(
        self, *, allow_private: bool = False, lookup: Lookup | None = None, tries: int = 5, seconds: float = 60.0
    ) -> None:
        self.allow_private = allow_private
        self.tries = tries
        self.seconds = seconds
        self._lookup = lookup
        self._connections: Connections | None = None
        # Not `__del__`: where the collector finds this and its connections, it may end a socket before this runs.
        self._ending: weakref.finalize[[Connections, int], Http] | None = None
        self._pid = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuilt, (self.allow_private, self.tries, self.seconds))

    def ask(
        self,
        method: str,
        url: str,
        *,
        limit: int,
        headers: Headers | None = None,
        sign: Callable[[], Headers] | None = None,
        content: Content | None = None,
        again: bool = True,
        redirects: bool = False,
    ) -> Answer:
        """Send a request and read its answer, whatever its status.

        Args:
            method: `GET`, `POST`, ….
            url: where to.
            limit: bytes of the answer's body; one that is longer is refused.
            headers: besides those that every request has.
            sign: gives, for each try, headers that no other server may see.
            content: the body, or a function that gives it for each try.
            again: whether the request may be sent again when it may have been carried out already.
            redirects: whether redirects are followed.

        Raises:
            UnreachableError: no answer, or none that is whole.
            UnsafeUrlError: the URL, or one that it redirects to, must not be opened.
            OversizeError: the answer is longer than `limit`.
        """

        def once(clock: Clock) -> Answer:
            with self._sent(method, url, headers, sign, content, redirects, clock) as reply:
                most = limit if reply.status < 300 else ERROR_BODY
                if reply.status < 300 and method != "HEAD" and (reply.length or 0) > limit:
                    raise _too_large(limit, url)
                body = b"".join(_first(reply.chunks, most + 1))
                if reply.status < 300 and len(body) > limit:
                    raise _too_large(limit, url)
                return Answer(reply.status, reply.headers, body, reply.url)

        return self._insist(url, once, again)

    @contextmanager
    def stream(
        self,
        url: str,
        *,
        headers: Headers | None = None,
        sign: Callable[[], Headers] | None = None,
        redirects: bool = False,
    ) -> Iterator[Reply]:
        """GET something whose body is read as it comes, inside a `with` statement; for the rest, see `ask`.

        What fails before the body begins is tried again; a body that breaks off is an UnreachableError. The bodies of
        errors are read as far as 64 KiB.
        """
        opened: list[Any] = []

        def once(clock: Clock) -> Reply:
            context = self._sent("GET", url, headers, sign, None, redirects, clock)
            reply = context.__enter__()
            if reply.status < 300:
                opened.append(context)
                return reply._replace(chunks=_told(reply.chunks, url))
            try:
                return reply._replace(chunks=iter(list(_first(reply.chunks, ERROR_BODY))))
            finally:
                context.__exit__(None, None, None)

        reply = self._insist(url, once, True)
        try:
            yield reply
        finally:
            for context in opened:
                context.__exit__(None, None, None)

    def close(self) -> None:
        """Close the connections; they are made anew when needed."""
        self._connections = None
        if self._ending is not None:
            self._ending()

    def _insist(self, url: str, once: Callable[[Clock], T], again: bool) -> T:
        """One answer, tried as often as makes sense, with growing pauses of which a part is chance."""
        try:
            import httpcore
        except ImportError:
            raise needs("httpcore") from None
        clock = Clock(self.seconds)
        for attempt in range(1, self.tries + 1):
            answer: T | None = None
            wait: float | None = None
            try:
                answer = once(clock)
                if answer.status not in (AGAIN if again else UNTOUCHED):
                    return answer
                text, wait = f"it answers {answer.status}", retry_wait(answer.headers)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                text = str(error) or "no connection in time"
            except _broken() as error:
                text = str(error) or "no answer in time"
                if not again:
                    raise UnreachableError(
                        f"the server gives no answer ({text}), and whether it did what was asked is not known",
                        url=public(url),
                    ) from error
            if wait is None:
                wait = min(MOST, FIRST * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            if attempt == self.tries or wait > clock.left():
                break
            time.sleep(wait)
        if answer is not None:
            return answer
        times = "" if attempt == 1 else f", also when asked {attempt} times"
        raise UnreachableError(f"the server cannot be reached{times}: {text}", url=public(url))

    @contextmanager
    def _sent(
        self,
        method: str,
        url: str,
        headers: Headers | None,
        sign: Callable[[], Headers] | None,
        content: Content | None,
        redirects: bool,
        clock: Clock,
    ) -> Iterator[Reply]:
        """One try: the reply, where redirects lead."""
        origin = urlsplit(url)[:2]
        for _ in range(MOST_REDIRECTS + 1):
            check_url(url, allow_private=self.allow_private)
            sent = dict(headers or {})
            if sign is not None and urlsplit(url)[:2] == origin:
                sent.update(sign())
            response = self._own().send(_request(method, url, sent, content, clock))
            try:
                found: dict[str, str] = {}
                for raw_name, raw in response.headers:
                    name, value = raw_name.decode("latin-1").lower(), raw.decode("latin-1")
                    found[name] = f"{found[name]}, {value}" if name in found else value
                location = found.get("location", "")
                if not (redirects and location and response.status in REDIRECTS):
                    if found.get("content-encoding", "identity").lower() != "identity":
                        raise AtmosphereError("the server compresses what it was asked not to", url=public(url))
                    yield Reply(response.status, found, url, iter(response.iter_stream()))
                    return
            finally:
                response.close()
            url = urljoin(url, location)
        raise UnsafeUrlError("the server redirects in a circle, or too often", url=public(url))

    def _own(self) -> Connections:
        """This process's connections: those of its parent are the parent's."""
        found = self._connections
        if found is None or self._pid != os.getpid():
            with _making:
                if self._connections is None or self._pid != os.getpid():
                    made = connections(allow_private=self.allow_private, lookup=self._lookup)
                    self._ending = weakref.finalize(self, _end, made, os.getpid())
                    self._connections, self._pid = made, os.getpid()
                found = self._connections
        return found


def _end(connections: Connections, pid: int) -> None:
    if pid == os.getpid():
        connections.close()


def _request(method: str, url: str, headers: Headers, content: Content | None, clock: Clock) -> httpcore.Request:
    import httpcore

    body = content() if callable(content) else content
    carried: dict[Any, Any] = {
        "host": urlsplit(url).netloc,
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "atdata",
        **headers,
    }
    if isinstance(body, bytes) or (body is None and method == "POST"):
        carried["content-length"] = str(len(body or b""))
    return httpcore.Request(
        method,
        url,
        headers=carried,
        content=body,
        extensions={"timeout": {"connect": clock, "read": clock, "write": clock, "pool": float(clock)}},
    )


def public(url: str) -> str:
    """A URL for messages, without its query."""
    return shown(url.partition("?")[0])[1:-1]


def _rebuilt(allow_private: bool, tries: int, seconds: float) -> Http:
    return Http(allow_private=allow_private, tries=tries, seconds=seconds)


def _too_large(limit: int, url: str) -> OversizeError:
    return OversizeError(f"the answer has more than the {limit} bytes that are read", url=public(url))


def _broken() -> tuple[type[Exception], ...]:
    """What a connection that breaks, or takes too long, raises."""
    import httpcore

    return httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpcore.ProxyError


def _told(chunks: Iterator[bytes], url: str) -> Iterator[bytes]:
    """Chunks whose end is told as an error of ours, where it comes too early."""
    try:
        yield from chunks
    except _broken() as error:
        raise UnreachableError(f"the answer breaks off: {str(error) or 'no byte in time'}", url=public(url)) from error


def _first(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The first so many bytes."""
    for chunk in chunks:
        yield chunk[:most]
        most -= len(chunk)
        if most <= 0:
            return
