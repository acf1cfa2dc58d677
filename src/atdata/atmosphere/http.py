"""HTTP requests to servers that strangers name: guarded, bounded, repeated as often as makes sense."""

from __future__ import annotations

import email.utils
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from atdata.atmosphere.guard import Clock, Lookup, check_url, guarded_client, needs
from atdata.atmosphere.syntax import shown
from atdata.errors import AtmosphereError, UnreachableError, UnsafeUrlError

if TYPE_CHECKING:
    import httpx

__all__ = ["Answer", "Http", "Reply", "retry_wait"]

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_UNTOUCHED = frozenset({425, 429, 503})  # the server says that it did nothing
TRIES = 5
SECONDS = 60.0
_FIRST, _MOST = 0.2, 5.0  # seconds between tries
_REDIRECTS = 5
MAX_ANSWER = 32 << 20

Headers = Mapping[str, str]


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
        chunks: the body, as it comes; an UnreachableError where it is cut.
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

    By `Retry-After` (RFC 9110, 10.2.3), or `RateLimit-Reset`, which PDSs give in seconds since the epoch.

    Example:
        >>> retry_wait({"retry-after": "3"}), retry_wait({"ratelimit-reset": "0"}), retry_wait({})
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
        # The draft of the IETF counts seconds from now, PDSs count from the epoch.
        return max(0.0, at - time.time()) if at > 1e9 or at == 0 else at
    return None


class Http:
    """Requests over connections that are kept; several threads may share one, and forked processes get their own.

    Args:
        allow_private: whether plain http, loopback and private addresses may be opened.
        lookup: how names are looked up, instead of the system's way.
        tries: how often a request is sent at most.
        seconds: how long one request may take, all tries together, beyond what moving its bytes takes.
    """

    def __init__(
        self, *, allow_private: bool = False, lookup: Lookup | None = None, tries: int = TRIES, seconds: float = SECONDS
    ) -> None:
        self.allow_private = allow_private
        self.tries = tries
        self.seconds = seconds
        self._lookup = lookup
        self._client: httpx.Client | None = None
        self._pid = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuilt, (self.allow_private, self.tries, self.seconds))

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | Callable[[], Headers] | None = None,
        content: bytes | Callable[[], Iterable[bytes]] | None = None,
        limit: int = MAX_ANSWER,
        again: bool = True,
        redirects: bool = False,
    ) -> Answer:
        """Send a request and read its answer, whatever its status.

        Args:
            method: `GET`, `POST`, ….
            url: where to.
            headers: besides those that every request has; a function is called for each try.
            content: the body; a function is called for each try.
            limit: bytes of the answer's body; one that is longer is refused.
            again: whether the request may be sent again when it may have been carried out already.
            redirects: whether redirects are followed (never with headers to another origin).

        Raises:
            UnreachableError: no answer, or none that is whole.
            UnsafeUrlError: the URL, or one that it redirects to, must not be opened.
            AtmosphereError: the answer is too large.
        """

        def once(clock: Clock) -> Answer:
            with self._sent(method, url, headers, content, redirects, clock) as reply:
                if reply.length is not None and reply.length > limit and method != "HEAD":
                    raise AtmosphereError(
                        f"the answer has {reply.length} bytes, more than the {limit} that are read", url=_public(url)
                    )
                body = bytearray()
                for chunk in reply.chunks:
                    body += chunk
                    if len(body) > limit:
                        raise AtmosphereError(f"the answer has more than {limit} bytes", url=_public(url))
                return Answer(reply.status, reply.headers, bytes(body), reply.url)

        answer: Answer = self._insist(url, once, again)
        return answer

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | Callable[[], Headers] | None = None,
        redirects: bool = False,
    ) -> Iterator[Reply]:
        """Send a request; its answer's body is read as it comes, inside a `with` statement.

        What fails before the body begins is tried again; a body that breaks off is an UnreachableError.
        """
        opened: list[Any] = []

        def once(clock: Clock) -> Reply:
            context = self._sent(method, url, headers, None, redirects, clock)
            reply = context.__enter__()
            if reply.status in AGAIN:
                with _closing(context):
                    body = b"".join(_first(reply.chunks, 64 << 10))
                return Reply(reply.status, reply.headers, reply.url, iter((body,)))
            opened.append(context)
            return reply._replace(chunks=_told(reply.chunks, url))

        reply = self._insist(url, once, True)
        try:
            yield reply
        finally:
            for context in opened:
                context.__exit__(None, None, None)

    def close(self) -> None:
        """Close the connections; they are made anew when needed."""
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()

    def __del__(self) -> None:
        if getattr(self, "_client", None) is not None:
            self.close()

    def _insist(self, url: str, once: Callable[[Clock], Any], again: bool) -> Any:
        """One answer, tried as often as makes sense, with growing pauses of which a part is chance."""
        try:
            import httpcore
            import httpx
        except ImportError:
            raise needs("httpx") from None
        clock = Clock(self.seconds)
        for attempt in range(1, self.tries + 1):
            answer, wait = None, None
            try:
                answer = once(clock)
                if answer.status not in (AGAIN if again else _UNTOUCHED):
                    return answer
                text, wait = f"it answers {answer.status}", retry_wait(answer.headers)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                text = str(error) or "no connection in time"
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpx.HTTPError) as error:
                text = str(error) or "no answer in time"
                if not again:
                    raise UnreachableError(
                        f"the server cannot be reached: {text}; whether it did what was asked is not known",
                        url=_public(url),
                    ) from error
            if wait is None:
                wait = min(_MOST, _FIRST * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            if attempt == self.tries or wait > clock.left():
                break
            time.sleep(wait)
        if answer is not None:
            return answer
        times = "" if attempt == 1 else f", asked {attempt} times"
        raise UnreachableError(f"the server cannot be reached{times}: {text}", url=_public(url))

    @contextmanager
    def _sent(
        self,
        method: str,
        url: str,
        headers: Headers | Callable[[], Headers] | None,
        content: bytes | Callable[[], Iterable[bytes]] | None,
        redirects: bool,
        clock: Clock,
    ) -> Iterator[Reply]:
        """One try: the reply, where redirects lead."""
        origin = urlsplit(url)[:2]
        for _ in range(_REDIRECTS + 1):
            check_url(url, allow_private=self.allow_private)
            sent = dict(headers() if callable(headers) else headers or {})
            if urlsplit(url)[:2] != origin:
                sent = {}
            client = self._own()
            request = client.build_request(
                method,
                url,
                headers=sent,
                content=content() if callable(content) else content,
                extensions={"timeout": {"connect": clock, "read": clock, "write": clock, "pool": self.seconds}},
            )
            response = client.send(request, stream=True)
            try:
                location = response.headers.get("location")
                if not (redirects and location and response.status_code in (301, 302, 303, 307, 308)):
                    found = {name.lower(): value for name, value in response.headers.items()}
                    if found.get("content-encoding", "identity").lower() != "identity":
                        raise AtmosphereError("the server compresses what it was asked not to", url=_public(url))
                    yield Reply(response.status_code, found, url, response.iter_raw())
                    return
            finally:
                response.close()
            url = urljoin(url, location)
        raise UnsafeUrlError("the server redirects in a circle, or too often", url=_public(url))

    def _own(self) -> httpx.Client:
        """This process's client: connections of its parent are the parent's."""
        client = self._client
        if client is None or self._pid != os.getpid():
            client = guarded_client(allow_private=self.allow_private, lookup=self._lookup)
            self._pid, self._client = os.getpid(), client
        return client


def _rebuilt(allow_private: bool, tries: int, seconds: float) -> Http:
    return Http(allow_private=allow_private, tries=tries, seconds=seconds)


@contextmanager
def _closing(context: Any) -> Iterator[None]:
    try:
        yield
    finally:
        context.__exit__(None, None, None)


def _told(chunks: Iterator[bytes], url: str) -> Iterator[bytes]:
    import httpcore

    try:
        yield from chunks
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise UnreachableError(f"the answer broke off: {str(error) or 'no byte in time'}", url=_public(url)) from error


def _first(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk[:most]
        most -= len(chunk)
        if most <= 0:
            return


def _public(url: str) -> str:
    """A URL for messages, without its query."""
    return shown(url.partition("?")[0])[1:-1]
