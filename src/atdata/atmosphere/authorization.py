"""The servers that accounts log in at, as they describe themselves.

Formats: RFC 9728 (what keeps the accounts), RFC 8414 (what logs them in), and what AT Protocol asks of both:
https://atproto.com/specs/oauth#authorization-servers.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Self

from atdata.atmosphere.dpop import origin
from atdata.atmosphere.guard import check_url
from atdata.atmosphere.http import Answer, Http
from atdata.atmosphere.syntax import shown
from atdata.errors import LoginError

__all__ = ["AuthorizationServer", "error_of", "json_of"]

_DOCUMENT = 64 << 10  # bytes


class AuthorizationServer(NamedTuple):
    """The server that an account logs in at.

    Attributes:
        issuer: its URL, which is its name.
        push: where requests are pushed to.
        authorize: the page for the browser.
        token: where codes and old tokens become tokens.
        revoke: where tokens are given back; "" where they cannot be.
    """

    issuer: str
    push: str
    authorize: str
    token: str
    revoke: str

    @classmethod
    def of(cls, pds: str, http: Http) -> Self:
        """The one that a server of accounts names.

        Raises:
            LoginError: it names none, or one that does not do what AT Protocol asks.
        """
        place = f"{pds}/.well-known/oauth-protected-resource"
        found = _document(http, place, f"{pds} has no login by browser; use an app password")
        if found.get("resource") != pds:
            raise LoginError(f"the server describes itself as another one, {shown(found.get('resource'))}", url=place)
        servers = found.get("authorization_servers")
        if not isinstance(servers, list) or len(servers) != 1 or not isinstance(servers[0], str):
            raise LoginError("the server does not name one authorization server", url=place)
        return cls.at(servers[0], http)

    @classmethod
    def at(cls, issuer: str, http: Http) -> Self:
        """The one with that name.

        Raises:
            LoginError: it does not do what AT Protocol asks.
        """
        check_url(issuer, allow_private=http.allow_private)
        if issuer != origin(issuer):
            raise LoginError(f"{shown(issuer)} is no name of an authorization server: one is https://host")
        place = f"{issuer}/.well-known/oauth-authorization-server"
        found = _document(http, place, f"the authorization server {issuer} does not describe itself")
        if found.get("issuer") != issuer:
            raise LoginError(f"the server describes another one, {shown(found.get('issuer'))}", url=place)
        for name, wanted in _WANTED.items():
            value = found.get(name)
            if value != wanted and not (isinstance(value, list) and wanted in value):
                raise LoginError(f"the server does not do what this login needs: {name} lacks {wanted}", url=place)
        ends = [found.get(f"{name}_endpoint") for name in ("pushed_authorization_request", "authorization", "token")]
        ends.append(found.get("revocation_endpoint", ""))
        for end in ends:
            if not isinstance(end, str):
                raise LoginError("the server does not say where logins go", url=place)
            if end:
                check_url(end, allow_private=http.allow_private)
        return cls(issuer, *(str(end) for end in ends))


_WANTED: dict[str, Any] = {
    "response_types_supported": "code",
    "grant_types_supported": "refresh_token",
    "code_challenge_methods_supported": "S256",
    "token_endpoint_auth_methods_supported": "none",
    "dpop_signing_alg_values_supported": "ES256",
    "scopes_supported": "atproto",
    "require_pushed_authorization_requests": True,
    "authorization_response_iss_parameter_supported": True,
    "client_id_metadata_document_supported": True,
}


def error_of(answer: Answer) -> str:
    """The name of the error in an answer; never more of a text that may repeat secrets."""
    error = json_of(answer).get("error")
    return error if isinstance(error, str) and error.isascii() and error.isidentifier() and len(error) < 100 else ""


def json_of(answer: Answer) -> dict[str, Any]:
    """The JSON object in an answer; an empty one where there is none."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _document(http: Http, url: str, otherwise: str) -> dict[str, Any]:
    """A server's description of itself; not by way of another place."""
    check_url(url, allow_private=http.allow_private)
    answer = http.ask("GET", url, headers={"accept": "application/json"}, limit=_DOCUMENT)
    found = json_of(answer) if answer.status == 200 else {}
    if not found:
        raise LoginError(f"{otherwise} ({answer.status})", url=url)
    return found
