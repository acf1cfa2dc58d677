"""Tokens that are good only with a key: each request is signed (DPoP, RFC 9449), and a stolen token is worth nothing.

The key is of the curve P-256, made for one login, and signatures are ES256 (RFC 7518, 3.4), as AT Protocol asks:
https://atproto.com/specs/oauth#demonstrating-proof-of-possession-dpop.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode, urlsplit

from atdata.atmosphere.guard import needs
from atdata.atmosphere.http import Answer, Http

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["DpopKey", "base64url", "origin", "wants_nonce"]

_TRIES = 3


class DpopKey:
    """A key, with the nonces that servers want to see signed with it. Threads may share one."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        public = key.public_key().public_numbers()
        self._key = key
        self._public = {
            "kty": "EC",
            "crv": "P-256",
            "x": base64url(public.x.to_bytes(32, "big")),
            "y": base64url(public.y.to_bytes(32, "big")),
        }
        self._nonces: dict[str, tuple[str, float]] = {}

    @classmethod
    def make(cls) -> Self:
        """A new key."""
        return cls(_curve().generate_private_key(_curve().SECP256R1()))

    @classmethod
    def load(cls, text: str) -> Self:
        """The key that `dump` gave.

        Raises:
            ValueError: it is none.
        """
        number = int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")
        return cls(_curve().derive_private_key(number, _curve().SECP256R1()))

    def dump(self) -> str:
        """The private key as a text, to be kept secret."""
        return base64url(self._key.private_numbers().private_value.to_bytes(32, "big"))

    def __repr__(self) -> str:
        return "DpopKey()"

    def proof(self, method: str, url: str, token: str = "") -> str:
        """A proof, for one request.

        Args:
            method: of the request.
            url: where it goes.
            token: the access token that it carries, if it does.
        """
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        claims: dict[str, Any] = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url.partition("#")[0].partition("?")[0],
            "iat": int(time.time()),
        }
        nonce = self._nonces.get(origin(url))
        if nonce is not None:
            claims["nonce"] = nonce[0]
        if token:
            claims["ath"] = base64url(hashlib.sha256(token.encode()).digest())
        signed = f"{_json64({'typ': 'dpop+jwt', 'alg': 'ES256', 'jwk': self._public})}.{_json64(claims)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), _curve().ECDSA(SHA256())))
        return f"{signed}.{base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def seen(self, url: str, headers: Mapping[str, str]) -> None:
        """Remember the nonce that an answer from there brought, if it did."""
        nonce = headers.get("dpop-nonce", "")
        if nonce and len(nonce) < 1000 and nonce.isascii() and nonce.isprintable():
            self._nonces[origin(url)] = nonce, time.monotonic()

    def nonce_age(self, url: str) -> float:
        """Seconds since a server last said which nonce it wants; endless where it did not."""
        nonce = self._nonces.get(origin(url))
        return float("inf") if nonce is None else time.monotonic() - nonce[1]

    def post(self, http: Http, url: str, form: Mapping[str, str]) -> Answer:
        """Send a form with a proof; again, where the server first has to say which nonce it wants."""
        for _ in range(_TRIES):
            answer = http.ask(
                "POST",
                url,
                headers={"content-type": "application/x-www-form-urlencoded", "accept": "application/json"},
                sign=lambda: {"dpop": self.proof("POST", url)},
                content=urlencode(form).encode(),
                limit=1 << 20,
                again=False,
            )
            self.seen(url, answer.headers)
            if answer.status not in (400, 401) or b"use_dpop_nonce" not in answer.body:
                break
        return answer


def wants_nonce(headers: Mapping[str, str], error: str = "") -> bool:
    """Whether an answer of a server of records asks for its nonce (RFC 9449, 9)."""
    return error == "use_dpop_nonce" or "use_dpop_nonce" in headers.get("www-authenticate", "")


def origin(url: str) -> str:
    """Scheme, host and port of a URL.

    Example:
        >>> origin("https://pds.example.org/xrpc/a?b=c")
        'https://pds.example.org'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def base64url(data: bytes) -> str:
    """Base64 for URLs, without padding (RFC 7515, 2).

    Example:
        >>> base64url(bytes([0, 255, 254]))
        'AP_-'
    """
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _json64(value: dict[str, Any]) -> str:
    return base64url(json.dumps(value, separators=(",", ":")).encode())


def _curve() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise needs("cryptography") from None
    return ec
