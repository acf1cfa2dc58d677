"""Login in the browser: the password is typed at the account's own server, and no other program sees it.

The profile of OAuth that AT Protocol has (https://atproto.com/specs/oauth): the server is found from the account,
requests are pushed to it (RFC 9126) with PKCE (RFC 7636), the browser comes back to this machine (RFC 8252) and says
which server it comes from (RFC 9207), and the tokens are good only with a key (RFC 9449). The client is the one that
every server knows for programs on a user's own machine, `http://localhost`; its logins end after two weeks.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

from atdata.atmosphere.authorization import AuthorizationServer, error_of, json_of
from atdata.atmosphere.credentials import Kept
from atdata.atmosphere.dpop import DpopKey, base64url, origin, wants_nonce
from atdata.atmosphere.http import Answer, Headers, Http
from atdata.atmosphere.identity import Identity, Resolver
from atdata.atmosphere.redirect import HOST, PATH, Redirect
from atdata.atmosphere.syntax import is_did
from atdata.errors import AtmosphereError, LoginError, UnreachableError

__all__ = ["SCOPE", "Grant", "OAuthSession", "log_in"]

_COLLECTIONS = ("entry", "schema", "label", "lens", "pin")
SCOPE = " ".join(["atproto", *(f"repo:science.alt.dataset.{name}" for name in _COLLECTIONS), "blob:*/*"])
"""What a login asks to be allowed: to write the records of datasets, and blobs of any kind, and nothing else."""

_BROWSER_SECONDS = 300.0  # the reference server forgets a pushed request after five minutes
_EARLY = 60.0  # seconds before its end at which a token is renewed
_NONCE_SECONDS = 60.0  # the reference server changes them after a minute, and takes older ones for two more


class Grant(NamedTuple):
    """What a server gave at login, and what renews it. Secrets: not to be shown.

    Attributes:
        access: the token that requests carry, good for minutes.
        refresh: the token that gets new ones, once.
        expires: when the first ends, in seconds since the epoch.
        key: the key that both are good with.
        issuer: the authorization server.
        client: the name that this program has there.
    """

    access: str
    refresh: str
    expires: float
    key: DpopKey
    issuer: str
    client: str

    def __repr__(self) -> str:
        return f"Grant(issuer={self.issuer!r})"

    def dump(self) -> dict[str, str]:
        """As it is kept."""
        return {**self._asdict(), "expires": f"{self.expires:.0f}", "key": self.key.dump()}

    @classmethod
    def load(cls, kept: Mapping[str, str]) -> Self:
        """From what was kept.

        Raises:
            LoginError: it is damaged.
        """
        try:
            found: dict[str, Any] = {name: kept[name] for name in cls._fields}
            return cls(**{**found, "expires": float(found["expires"]), "key": DpopKey.load(found["key"])})
        except (KeyError, ValueError):
            raise LoginError("the saved login is damaged: run atdata login again") from None


class OAuthSession:
    """A login by browser, at one server; threads share it, and renew its tokens once.

    Args:
        did: the account.
        base: the URL of its server.
        http: the connections to use.
        grant: what the login gave.
        kept: where the login is saved, and renewed for other processes too.
    """

    def __init__(self, did: str, base: str, http: Http, grant: Grant, kept: Kept | None = None) -> None:
        self.base = base.rstrip("/")
        self._did = did
        self._http = http
        self._grant = grant
        self._kept = kept
        self._over = False
        self._lock, self._pid = threading.Lock(), os.getpid()

    @property
    def did(self) -> str:
        """The account."""
        return self._did

    @property
    def grant(self) -> Grant:
        """The tokens as they are now, to be saved."""
        return self._grant

    def __repr__(self) -> str:
        return f"OAuthSession({self.base!r}, {self.did!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a session is not pickled, it is a secret: log in where it is needed")

    def headers(self, method: str, url: str) -> Headers:
        """What a request carries."""
        if self._over:
            raise self._ended()
        if origin(url) != origin(self.base):
            raise AtmosphereError(f"the login is for {self.base}, and is not sent elsewhere", url=url)
        if time.time() > self._grant.expires - _EARLY:
            self.renew(self._grant.access)
        grant = self._grant
        if method == "POST" and grant.key.nonce_age(url) > _NONCE_SECONDS:
            # Else a large body might be sent only to learn which nonce is wanted.
            self._ask_for_nonce()
        return self._signed(grant, method, url)

    def answered(self, sent: Headers, status: int, headers: Headers, error: str) -> bool:
        """True when what was sent is not good, and there is something better to send."""
        self._grant.key.seen(self.base, headers)
        if status != 401:
            return False
        if wants_nonce(headers, error):
            return True
        return self.renew(sent.get("authorization", "").removeprefix("DPoP "))

    def renew(self, used: str | None = None) -> bool:
        """Get new tokens, unless those in use are newer than `used` already.

        Raises:
            LoginError: the login is over.
        """
        with self._own_lock():
            if self._over:
                raise self._ended()
            if used is not None and used != self._grant.access:
                return True
            if self._kept is None:
                self._grant = self._renewed()
                return True
            # An old token that comes a second time ends the login, so processes take turns.
            with self._kept.turn():
                saved = Grant.load(self._kept.load())
                if saved.access != self._grant.access:
                    self._grant = saved
                    return True
                self._grant = self._renewed()
                self._kept.save(self._grant.dump())
            return True

    def end(self) -> None:
        """Log out: the tokens are good for nothing any more."""
        with self._own_lock():
            if not self._over:
                self._over = True
                _revoke(self._http, AuthorizationServer.at(self._grant.issuer, self._http), self._grant)

    def _renewed(self) -> Grant:
        old = self._grant
        server = AuthorizationServer.at(old.issuer, self._http)
        form = {"grant_type": "refresh_token", "refresh_token": old.refresh, "client_id": old.client}
        answer = old.key.post(self._http, server.token, form)
        if answer.status in (400, 401) and error_of(answer) == "invalid_grant":
            self._over = True
            raise self._ended()
        did, grant = _taken(answer, server, old.key, old.client)
        if did != self.did:
            raise LoginError("the server gave the login of another account", url=server.issuer)
        return grant

    def _ask_for_nonce(self) -> None:
        url = f"{self.base}/xrpc/com.atproto.server.getSession"
        answer = self._http.ask("GET", url, sign=lambda: self._signed(self._grant, "GET", url), limit=1 << 20)
        self._grant.key.seen(self.base, answer.headers)

    def _signed(self, grant: Grant, method: str, url: str) -> Headers:
        return {"authorization": f"DPoP {grant.access}", "dpop": grant.key.proof(method, url, grant.access)}

    def _ended(self) -> LoginError:
        return LoginError(
            f"the login of {self.did} is over, or was revoked: run atdata login again", url=self._grant.issuer
        )

    def _own_lock(self) -> threading.Lock:
        """This process's lock: one that a thread of its parent held would stay locked for ever."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock


def log_in(
    http: Http,
    resolver: Resolver,
    actor: str | None,
    show: Callable[[str, Redirect], Callable[[], None] | None],
    *,
    pds_url: str | None = None,
    scope: str = SCOPE,
    seconds: float = _BROWSER_SECONDS,
) -> tuple[OAuthSession, Identity]:
    """Log in in the browser.

    Args:
        http: the connections to use.
        resolver: who knows the accounts.
        actor: handle or DID; None for whoever logs in at `pds_url`.
        show: is given the URL for the browser, and where the browser comes back to; what it gives is called several
            times a second while the browser is waited for.
        pds_url: the server, instead of the one that the account's identity names.
        scope: what to ask for.
        seconds: how long the user has.

    Raises:
        LoginError: the login was refused, came to no end, or is one of another account than was asked for.
        IdentityError: there is no such account.
    """
    asked = None if actor is None else resolver.resolve(actor)
    if asked is None and pds_url is None:
        raise LoginError("say who logs in, a handle, or at which server")
    server = AuthorizationServer.of(pds_url.rstrip("/") if pds_url else asked.pds, http)  # type: ignore[union-attr]
    key, state, verifier = DpopKey.make(), secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    # Ports are not compared, so this program has one name at every login.
    client = f"http://localhost?{urlencode({'redirect_uri': f'http://{HOST}{PATH}', 'scope': scope})}"
    with Redirect(state, server.issuer) as redirect:
        form = {
            "client_id": client,
            "response_type": "code",
            "redirect_uri": redirect.url,
            "scope": scope,
            "state": state,
            "code_challenge": base64url(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        if actor is not None:
            form["login_hint"] = actor.removeprefix("@")
        answer = key.post(http, server.push, form)
        pushed = json_of(answer).get("request_uri")
        if answer.status not in (200, 201) or not isinstance(pushed, str):
            raise _refused(answer, server)
        page = f"{server.authorize}?{urlencode({'client_id': client, 'request_uri': pushed})}"
        code = redirect.wait(seconds, show(page, redirect))
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect.url,
            "client_id": client,
            "code_verifier": verifier,
        }
        answer = key.post(http, server.token, form)
    did, grant = _taken(answer, server, key, client)
    try:
        # Servers leave out what they do not know, and users what they do not want.
        if missing := set(scope.split()) - set(str(json_of(answer).get("scope")).split()):
            raise LoginError(
                f"the login does not allow what datasets need ({', '.join(sorted(missing))}): allow it in the "
                "browser, or use an app password",
                url=server.issuer,
            )
        # Any server may claim to speak for any account; the account's own document decides.
        identity = resolver.resolve(did, fresh=True)
        if asked is not None and did != asked.did:
            raise LoginError(f"the browser logged in {identity.handle or did} instead of {actor}", url=server.issuer)
        if AuthorizationServer.of(identity.pds, http).issuer != server.issuer:
            raise LoginError(f"the server logged in {did}, an account of another server", url=server.issuer)
    except BaseException:
        with suppress(UnreachableError):  # it ends by itself
            _revoke(http, server, grant)
        raise
    return OAuthSession(did, identity.pds, http, grant), identity


def _revoke(http: Http, server: AuthorizationServer, grant: Grant) -> None:
    if server.revoke:
        grant.key.post(http, server.revoke, {"token": grant.refresh, "client_id": grant.client})


def _taken(answer: Answer, server: AuthorizationServer, key: DpopKey, client: str) -> tuple[str, Grant]:
    """The account and the tokens in an answer of a server."""
    if answer.status != 200:
        raise _refused(answer, server)
    found = json_of(answer)
    did, scope, seconds = found.get("sub"), found.get("scope"), found.get("expires_in")
    access, refresh = found.get("access_token"), found.get("refresh_token")
    tokens = [token for token in (access, refresh) if isinstance(token, str) and 0 < len(token) < 20_000]
    sound = (
        isinstance(did, str)
        and is_did(did)
        and isinstance(scope, str)
        and "atproto" in scope.split()
        and str(found.get("token_type")).lower() == "dpop"
        and isinstance(seconds, int)
        and len(tokens) == 2
        and all(token.isascii() and token.isprintable() and " " not in token for token in tokens)
    )
    if not sound:
        raise LoginError("the server's answer to the login makes no sense", url=server.issuer)
    return str(did), Grant(
        tokens[0], tokens[1], time.time() + min(int(seconds or 0), 86400), key, server.issuer, client
    )


def _refused(answer: Answer, server: AuthorizationServer) -> AtmosphereError:
    """Why a server took no request; never its own text, which was sent secrets."""
    error = error_of(answer)
    if answer.status >= 500:
        return UnreachableError(f"the authorization server answers {answer.status} {error}".rstrip(), url=server.issuer)
    if error == "invalid_scope":
        return LoginError("the server does not know what this login asks for; use an app password", url=server.issuer)
    return LoginError(f"the login is refused: {answer.status} {error}".rstrip(), url=server.issuer)
