"""Sessions by password: two tokens, of which the short-lived one is renewed with the other.

Methods: com.atproto.server.createSession, refreshSession, deleteSession.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from atdata.atmosphere.credentials import Kept
from atdata.atmosphere.http import Headers, Http
from atdata.atmosphere.syntax import is_did, shown
from atdata.atmosphere.xrpc import Xrpc
from atdata.errors import AtmosphereError, LoginError, RateLimitError, XrpcError

__all__ = ["PasswordSession", "Tokens"]

_OVER = frozenset({"ExpiredToken", "InvalidToken", "AuthMissing", "AccountTakedown", "AccountDeactivated"})


class Tokens(NamedTuple):
    """What a server gave at login. They are secrets: not to be shown.

    Attributes:
        did: the account.
        handle: its handle, as the server has it.
        access: the token that requests carry, good for some hours.
        refresh: the token that gets new ones, good for some months.
    """

    did: str
    handle: str
    access: str
    refresh: str

    def __repr__(self) -> str:
        return f"Tokens(did={self.did!r}, handle={self.handle!r})"

    def dump(self) -> dict[str, str]:
        """As they are kept."""
        return {"access": self.access, "refresh": self.refresh}

    @classmethod
    def load(cls, did: str, handle: str, kept: Mapping[str, str]) -> Self:
        """From what was kept.

        Raises:
            LoginError: it is damaged.
        """
        if not {"access", "refresh"} <= kept.keys():
            raise LoginError(f"the saved login of {did} is damaged: run atdata login again")
        return cls(did, handle, kept["access"], kept["refresh"])


class PasswordSession:
    """A session at one server; threads share it, and renew its tokens once.

    Args:
        base: the server's URL.
        http: the connections to use.
        tokens: what the login gave.
        kept: where the login is saved, and renewed for other processes too.
    """

    def __init__(self, base: str, http: Http, tokens: Tokens, kept: Kept | None = None) -> None:
        self.base = base.rstrip("/")
        self._http = http
        self._tokens = tokens
        self._kept = kept
        self._over = False
        self._lock, self._pid = threading.Lock(), os.getpid()

    @classmethod
    def create(cls, base: str, http: Http, identifier: str, password: str) -> Self:
        """Log in.

        Args:
            base: the account's server.
            http: the connections to use.
            identifier: handle, DID or e-mail address.
            password: the account's, or better an app password.

        Raises:
            LoginError: the password is wrong, or does not suffice.
        """
        try:
            found = Xrpc(base, http).procedure(
                "com.atproto.server.createSession", {"identifier": identifier, "password": password}, again=True
            )
        except (LoginError, XrpcError) as error:
            raise _refused(error, identifier, base) from None
        return cls(base, http, _taken(found, base))

    @property
    def did(self) -> str:
        """The account."""
        return self._tokens.did

    @property
    def handle(self) -> str:
        """Its handle, as the server has it."""
        return self._tokens.handle

    @property
    def tokens(self) -> Tokens:
        """The tokens as they are now, to be saved."""
        return self._tokens

    def __repr__(self) -> str:
        return f"PasswordSession({self.base!r}, {self.did!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a session is not pickled, it is a secret: log in where it is needed")

    def headers(self, method: str, url: str) -> Headers:
        """What a request carries."""
        if self._over:
            raise self._ended()
        return {"authorization": f"Bearer {self._tokens.access}"}

    def answered(self, sent: Headers, status: int, headers: Headers, error: str) -> bool:
        """True when the token that was sent is no longer good, and there is a new one."""
        if error not in ("ExpiredToken", "InvalidToken") and status != 401:
            return False
        return self.renew(sent.get("authorization", "").removeprefix("Bearer "))

    def renew(self, used: str | None = None) -> bool:
        """Get new tokens, unless those in use are newer than `used` already.

        Raises:
            LoginError: the session is over.
        """
        with self._own_lock():
            if self._over:
                raise self._ended()
            if used is not None and used != self._tokens.access:
                return True
            if self._kept is None:
                self._tokens = self._renewed()
                return True
            with self._kept.turn():
                saved = Tokens.load(self.did, self.handle, self._kept.load())
                if saved.access != self._tokens.access:
                    self._tokens = saved
                    return True
                self._tokens = self._renewed()
                self._kept.save(self._tokens.dump())
            return True

    def end(self) -> None:
        """Log out: the tokens are good for nothing any more."""
        with self._own_lock():
            if not self._over:
                self._over = True
                try:
                    Xrpc(self.base, self._http, _Refresh(self._tokens)).procedure("com.atproto.server.deleteSession")
                except (LoginError, XrpcError):
                    return  # it was over already

    def _renewed(self) -> Tokens:
        try:
            found = Xrpc(self.base, self._http, _Refresh(self._tokens)).procedure(
                "com.atproto.server.refreshSession", again=True
            )
        except LoginError:
            self._over = True
            raise self._ended() from None
        except XrpcError as error:
            if error.error not in _OVER:
                raise
            self._over = True
            raise self._ended() from None
        tokens = _taken(found, self.base)
        if tokens.did != self._tokens.did:
            raise LoginError("the server gave the session of another account", url=self.base)
        return tokens

    def _ended(self) -> LoginError:
        how = "log in" if self._kept is None else "run atdata login"
        return LoginError(f"the session of {self._tokens.handle} is over, or was revoked: {how} again", url=self.base)

    def _own_lock(self) -> threading.Lock:
        """This process's lock: one that a thread of its parent held would stay locked for ever."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock


class _Refresh:
    """Requests that carry the refresh token."""

    def __init__(self, tokens: Tokens) -> None:
        self.did = tokens.did
        self._token = tokens.refresh

    def headers(self, method: str, url: str) -> Headers:
        return {"authorization": f"Bearer {self._token}"}

    def answered(self, sent: Headers, status: int, headers: Headers, error: str) -> bool:
        return False


def _taken(found: dict[str, Any], base: str) -> Tokens:
    names = ("did", "handle", "accessJwt", "refreshJwt")
    values = [found.get(name) for name in names]
    if not all(isinstance(value, str) and 0 < len(value) < 20_000 and value.isascii() for value in values):
        raise AtmosphereError("the server's answer to the login makes no sense", url=base)
    did, handle, access, refresh = (str(value) for value in values)
    if not is_did(did) or any(ord(char) <= 32 for char in access + refresh):
        raise AtmosphereError("the server's answer to the login makes no sense", url=base)
    return Tokens(did, handle, access, refresh)


def _refused(error: LoginError | XrpcError, identifier: str, base: str) -> AtmosphereError:
    """What a failed login tells; never a text of the server, which was sent the password."""
    who = shown(identifier)
    name = error.error
    if isinstance(error, RateLimitError):
        after = "" if error.retry_at is None else f" for {max(0.0, error.retry_at - time.time()):.0f} s"
        return RateLimitError(
            f"the server takes no more logins of {who}{after}",
            retry_at=error.retry_at,
            status=error.status,
            error=name,
            nsid=error.nsid,
            url=base,
        )
    if name == "AuthFactorTokenRequired":
        return LoginError(
            f"the account {who} wants a code from an e-mail at each login: make an app password for it, or log in by "
            "browser with `atdata login`",
            url=base,
        )
    if name == "AccountTakedown":
        return LoginError(f"the account {who} was taken down by its server", url=base)
    if isinstance(error, LoginError):
        return LoginError(f"the server does not know the account {who}, or its password is another", url=base)
    return LoginError(f"the login of {who} is refused: {error.status} {name}".rstrip(), url=base)
