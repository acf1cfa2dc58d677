"""A Redis server to work with: connections, scripts, what is tried again, and errors that say what to do."""

from __future__ import annotations

import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    RedisError,
    TimeoutError,
)
from redis.retry import Retry

from atdata.errors import CatalogBusyError, CatalogError
from atdata.index.redis_scripts import SCRIPTS

__all__ = ["RedisServer"]

T = TypeVar("T")

WAIT = 30.0  # seconds that a server that restarts is waited for
_ANSWER = 30.0  # seconds that one answer may take
_CONNECTIONS = 20  # of one process
_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")  # that a URL may have


class RedisServer:
    """One database of a Redis server.

    Threads share it, each call with a connection of its own; a forked process makes its own connections.

    Args:
        url: `redis://user:password@host:port/number`, or `rediss://` for TLS.

    Attributes:
        url: how messages call it; without a password.

    Raises:
        CatalogError: the URL is malformed.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = _without_password(url)
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=WAIT,
                socket_connect_timeout=10,
                socket_timeout=_ANSWER,
                socket_keepalive=True,
                health_check_interval=30,
                protocol=2,
                retry=Retry(NoBackoff(), 0),  # by `_tried`, which knows what may have happened already
            )
        except ValueError:
            raise CatalogError(
                "the URL of the index cannot be read; write redis://user:password@host:port/0, with special characters "
                "of the password percent-encoded"
            ) from None
        self._client = Redis(connection_pool=pool)
        self._scripts = {name: self._client.register_script(text) for name, text in SCRIPTS.items()}

    def read(self, script: str, given: Sequence[Any]) -> Any:
        """What a script gives, strings as bytes."""
        return self._tried(lambda again: self._scripts[script](args=[msgspec.msgpack.encode(given)]))

    def write(self, script: str, *given: Any) -> Any:
        """What a script gives that changes something, all of it or nothing.

        Its first argument is whether it is run again because a connection broke: the first time may have done it, with
        only the answer lost.
        """
        return self._tried(
            lambda again: self._scripts[script](args=[msgspec.msgpack.encode([again, *given])]),
            late="; what was to be changed may have been: look before you try again",
        )

    def ask(self, work: Callable[[Redis], T]) -> T:
        """What `work`, which may be done twice, gives."""
        return self._tried(lambda again: work(self._client))

    def _tried(self, work: Callable[[bool], T], late: str = "; try again") -> T:
        deadline = time.monotonic() + WAIT
        pause = 0.05
        again = False
        while True:
            try:
                return work(again)
            except RedisError as error:
                if not _passing(error) or time.monotonic() > deadline:
                    kind, message = _said(error, late)
                    raise kind(message, url=self.url) from error
            again = True
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, 2.0)

    def close(self) -> None:
        """Close all connections; the next use makes new ones."""
        self._client.connection_pool.disconnect()


def _without_password(url: str) -> str:
    """The URL for messages, once everything in it is known to be meant so."""
    found = urlsplit(url)
    options = {name for name, _ in parse_qsl(found.query, keep_blank_values=True)}
    if not found.hostname or not re.fullmatch(r"/?|/[0-9]{1,9}", found.path) or not options <= set(_OPTIONS):
        raise ValueError
    user = ""
    if found.username or found.password is not None:
        user = (found.username or "") + ("" if found.password is None else ":***") + "@"
    host = f"[{found.hostname}]" if ":" in found.hostname else quote(found.hostname)
    port = "" if found.port is None else f":{found.port}"
    return f"{found.scheme}://{user}{host}{port}{found.path}"


_PASSING = ("BUSY", "LOADING", "MASTERDOWN", "NOREPLICAS")  # what a server says that starts, or waits for others
_NO_FREE = "No connection available"  # the pool's words
_NO_ANSWER = "Timeout reading"


def _code(error: RedisError) -> str:
    """The first word of what the server answered; newer drivers keep it apart."""
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


def _passing(error: RedisError) -> bool:
    """Whether the same may succeed a little later."""
    text = str(error)
    if _code(error) in _PASSING:
        return True
    if isinstance(error, AuthenticationError) or _NO_FREE in text or _NO_ANSWER in text:
        return False
    nowhere = isinstance(error.__cause__ or error.__context__, socket.gaierror | ssl.SSLError)
    return isinstance(error, ConnectionError | TimeoutError) and not nowhere


# What answers mean: the first word of one, or what it says when a script was refused.
_ANSWERS = (
    (
        ("OOM", "command not allowed when used memory"),
        "the server has no memory left (its maxmemory); nothing was changed. Give it more, or remove something",
    ),
    (("MISCONF",), "the server cannot save its data (a full disk?), and changes nothing until it can"),
    (
        ("READONLY", "read only replica"),
        "you may read this index, not write it: the server is a read-only replica of another",
    ),
    (("NOPERM", "no permissions", "The user executing the script"), "the server does not let this user do that"),
    (("DB index is out of range",), "the server has no database of this number; it has 16 by default, from 0"),
    (
        ("MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT"),
        "the server is part of a cluster; an index needs one with all keys in one place",
    ),
    (
        ("WRONGTYPE",),
        "another program uses keys that begin with `atdata:` in this database; take one of another number",
    ),
)


def _said(error: RedisError, late: str) -> tuple[type[CatalogError], str]:
    text = str(error).strip().split("\n")[0][:300]
    if isinstance(error, AuthenticationError):
        return CatalogError, "the server refused the user or the password"
    if _NO_FREE in text:
        return CatalogBusyError, f"all connections of this process to the index were in use for {WAIT:.0f} s"
    if _NO_ANSWER in text:
        return CatalogBusyError, f"the server did not answer within {_ANSWER:g} s{late}"
    if isinstance(error, ConnectionError | TimeoutError) or _passing(error):
        return CatalogBusyError, f"the server cannot be reached: {text}"
    for signs, message in _ANSWERS:
        if _code(error) in signs or any(sign in text for sign in signs):
            return CatalogError, message
    return CatalogError, f"the server failed: {text}"
