"""Logins by browser, at the reference server: what they may, how they go on and end, and whom they do not trust."""

from __future__ import annotations

import base64
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from browser import approving
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from atdata.atmosphere.authorization import AuthorizationServer
from atdata.atmosphere.blobs import upload_blob
from atdata.atmosphere.credentials import Account, Credentials
from atdata.atmosphere.dpop import DpopKey
from atdata.atmosphere.http import Http
from atdata.atmosphere.identity import Resolver
from atdata.atmosphere.oauth import Grant, OAuthSession, log_in
from atdata.atmosphere.redirect import Redirect
from atdata.atmosphere.xrpc import Xrpc
from atdata.errors import AtmosphereError, LoginError, UnsafeUrlError, XrpcError
from atdata.testing.network import LocalAccount
from servers.atproto import SharedNetwork
from servers.web import WebServer

ENTRY = "science.alt.dataset.entry"


@pytest.fixture
def http() -> Iterator[Http]:
    connections = Http(allow_private=True)
    yield connections
    connections.close()


@pytest.fixture
def resolver(atproto: SharedNetwork, http: Http) -> Resolver:
    return Resolver(directory=atproto.directory, http=http, handles_at=atproto.pds[0])


@pytest.fixture
def alice(atproto: SharedNetwork) -> LocalAccount:
    return atproto.make_account()


@pytest.fixture
def session(alice: LocalAccount, http: Http, resolver: Resolver) -> OAuthSession:
    return log_in(http, resolver, alice.handle, approving(alice))[0]


def write(session: OAuthSession, http: Http, collection: str = ENTRY) -> dict[str, Any]:
    record = {"$type": collection, "name": "digits"}
    body = {"repo": session.did, "collection": collection, "record": record, "validate": False}
    return Xrpc(session.base, http, session).procedure("com.atproto.repo.createRecord", body)


# ---- what a login may


def test_a_login_is_good_for_records_of_datasets_and_blobs_and_nothing_else(
    session: OAuthSession, http: Http, alice: LocalAccount
) -> None:
    assert (session.did, session.base) == (alice.did, alice.pds)
    assert write(session, http)["uri"].startswith(f"at://{alice.did}/{ENTRY}/")
    for name in ("schema", "label", "lens", "pin"):
        write(session, http, f"science.alt.dataset.{name}")
    assert upload_blob(Xrpc(session.base, http, session), b"bytes", 5, "application/x-tar")["size"] == 5
    with pytest.raises(XrpcError, match="403 ScopeMissingError"):
        write(session, http, "app.bsky.feed.post")


def test_who_logs_in_may_be_left_to_the_browser(atproto: SharedNetwork, http: Http, resolver: Resolver) -> None:
    bob = atproto.make_account(1)
    session, identity = log_in(http, resolver, None, approving(bob), pds_url=f"{bob.pds}/")
    assert (session.did, identity.handle, identity.pds) == (bob.did, bob.handle, bob.pds)
    with pytest.raises(LoginError, match="say who logs in, a handle, or at which server"):
        log_in(http, resolver, None, approving(bob))


def test_the_tokens_go_to_no_other_server(session: OAuthSession) -> None:
    with pytest.raises(AtmosphereError, match=r"the login is for http://localhost:\d+, and is not sent elsewhere"):
        session.headers("GET", "http://localhost:1/xrpc/com.atproto.server.getSession")


def test_a_token_alone_is_good_for_nothing(session: OAuthSession, http: Http) -> None:
    url = f"{session.base}/xrpc/com.atproto.server.getSession"
    for kind in ("Bearer", "DPoP"):
        assert httpx.get(url, headers={"authorization": f"{kind} {session.grant.access}"}).status_code in (400, 401)
    thief = OAuthSession(session.did, session.base, http, session.grant._replace(key=DpopKey.make()))
    with pytest.raises((LoginError, XrpcError)):
        write(thief, http)


def test_nothing_shows_a_secret(session: OAuthSession) -> None:
    text = repr((session, session.grant, session.grant.key, str(session)))
    for secret in session.grant.dump().values():
        assert secret in (session.grant.issuer,) or secret not in text
    with pytest.raises(TypeError, match="a session is not pickled"):
        session.__reduce__()


def test_a_body_that_can_be_sent_only_once_is(session: OAuthSession, http: Http) -> None:
    fresh = Grant.load(session.grant.dump())  # it knows no nonce
    again = OAuthSession(session.did, session.base, http, fresh)
    blob = upload_blob(Xrpc(again.base, http, again), iter([b"a" * 1000, b"b" * 1000]), 2000, "application/x-tar")
    assert blob["size"] == 2000


# ---- how it goes on


def test_a_token_that_ends_is_renewed_once_by_all_threads(session: OAuthSession, http: Http) -> None:
    late = OAuthSession(session.did, session.base, http, session.grant._replace(expires=time.time() + 1))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write(late, http), range(8)))
    assert late.grant.refresh != session.grant.refresh
    assert late.grant.expires > time.time() + 600
    write(late, http)  # an old token that came twice would have ended the login


def test_a_token_that_the_server_takes_no_more_is_renewed(session: OAuthSession, http: Http) -> None:
    session.renew()
    access = session.grant.access
    broken = OAuthSession(session.did, session.base, http, session.grant._replace(access=access[:-6] + "AAAAAA"))
    write(broken, http)
    assert broken.grant.access not in (access, access[:-6] + "AAAAAA")


def renew(folder: Path, did: str, base: str, times: int) -> None:
    """A process that uses the saved login."""
    http = Http(allow_private=True)
    kept = Credentials(folder).kept(did)
    session = OAuthSession(did, base, http, Grant.load(kept.load()), kept)
    for _ in range(times):
        session.renew()
    write(session, http)
    http.close()


def test_processes_share_a_saved_login(session: OAuthSession, http: Http, tmp_path: Path) -> None:
    saved = Credentials(tmp_path)
    saved.add(Account(session.did, None, session.base, "oauth", "file"), session.grant.dump())
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=renew, args=(tmp_path, session.did, session.base, 3)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    own = OAuthSession(session.did, session.base, http, session.grant, saved.kept(session.did))
    own.renew(session.grant.access)  # takes what the others saved
    write(own, http)
    assert own.grant.access == saved.kept(session.did).load()["access"]
    saved.remove(session.did)
    with pytest.raises(LoginError, match="somebody has logged out: run atdata login"):
        own.renew()


# ---- how it ends


def test_a_login_that_was_ended_says_so(session: OAuthSession, http: Http) -> None:
    other = OAuthSession(session.did, session.base, http, Grant.load(session.grant.dump()))
    write(other, http)
    session.end()
    for over in (session, other, other):
        with pytest.raises(
            LoginError, match=r"the login of did:plc:\w+ is over, or was revoked: run atdata login again"
        ):
            write(over, http)
    session.end()


def test_a_refused_login_says_so(alice: LocalAccount, http: Http, resolver: Resolver) -> None:
    with pytest.raises(LoginError, match="the login was refused in the browser"):
        log_in(http, resolver, alice.handle, approving(alice, refuse=True))


def test_a_login_of_somebody_else_is_refused(
    atproto: SharedNetwork, alice: LocalAccount, http: Http, resolver: Resolver
) -> None:
    mallory = atproto.make_account()
    with pytest.raises(LoginError, match=rf"the browser logged in {mallory.handle} instead of {alice.handle}"):
        log_in(http, resolver, alice.handle, approving(mallory))


def test_a_login_that_nobody_finishes_comes_to_an_end(alice: LocalAccount, http: Http, resolver: Resolver) -> None:
    with pytest.raises(LoginError, match="nobody finished the login in the browser within 0 minutes"):
        log_in(http, resolver, alice.handle, lambda page, redirect: None, seconds=0.3)


def test_a_login_that_is_allowed_less_is_refused(alice: LocalAccount, http: Http, resolver: Resolver) -> None:
    wanted = "atproto repo:science.alt.dataset.entry new:permission"
    with pytest.raises(
        LoginError, match=r"does not allow what datasets need \(new:permission\): allow it in the browser"
    ):
        log_in(http, resolver, alice.handle, approving(alice), scope=wanted)
    with pytest.raises(LoginError, match="does not know what this login asks for; use an app password"):
        log_in(http, resolver, alice.handle, approving(alice), scope="atproto openid")


@pytest.mark.parametrize("change", [{"expires": "soon"}, {"key": "?"}, {"key": ""}, {"refresh": None}])
def test_a_damaged_login_says_so(change: dict[str, str | None]) -> None:
    kept = Grant("a", "b", 1.0, DpopKey.make(), "https://a.example.org", "http://localhost").dump() | change
    with pytest.raises(LoginError, match="the saved login is damaged: run atdata login again"):
        Grant.load({name: value for name, value in kept.items() if value is not None})


# ---- whom it does not trust


def test_a_server_cannot_log_in_accounts_of_others(
    alice: LocalAccount, atproto: SharedNetwork, http: Http, web: WebServer
) -> None:
    # What the directory says now: the account has moved, and the old server still knows the password.
    document = httpx.get(f"{atproto.directory}/{alice.did}").json()
    document["service"][0]["serviceEndpoint"] = atproto.pds[1]
    (web.folder / alice.did).write_text(json.dumps(document))
    moved = Resolver(directory=web.endpoint, http=http, handles_at=atproto.pds[0])
    with pytest.raises(LoginError, match=rf"the server logged in {alice.did}, an account of another server"):
        log_in(http, moved, None, approving(alice), pds_url=alice.pds)


def described(web: WebServer, resource: dict[str, Any], server: dict[str, Any]) -> None:
    """Let the web server describe itself as a server of accounts that are logged in by itself."""
    own = web.endpoint
    known = {
        "issuer": own,
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "scopes_supported": ["atproto"],
        "require_pushed_authorization_requests": True,
        "authorization_response_iss_parameter_supported": True,
        "client_id_metadata_document_supported": True,
        "pushed_authorization_request_endpoint": f"{own}/par",
        "authorization_endpoint": f"{own}/authorize",
        "token_endpoint": f"{own}/token",
    }
    folder = web.folder / ".well-known"
    folder.mkdir()
    said = {"resource": own, "authorization_servers": [own]} | resource
    (folder / "oauth-protected-resource").write_text(json.dumps(said))
    (folder / "oauth-authorization-server").write_text(json.dumps(known | server))


def test_a_server_that_describes_itself_well_is_taken(web: WebServer, http: Http) -> None:
    described(web, {}, {})
    assert AuthorizationServer.of(web.endpoint, http) == AuthorizationServer(
        web.endpoint, f"{web.endpoint}/par", f"{web.endpoint}/authorize", f"{web.endpoint}/token", ""
    )


@pytest.mark.parametrize(
    ("resource", "server", "message"),
    [
        (
            {"resource": "https://bank.example.org"},
            {},
            r"describes itself as another one, 'https://bank\.example\.org'",
        ),
        ({"authorization_servers": []}, {}, "does not name one authorization server"),
        ({"authorization_servers": "x"}, {}, "does not name one authorization server"),
        ({"authorization_servers": ["https://a.example.org/path"]}, {}, "is no name of an authorization server"),
        ({}, {"issuer": "https://bank.example.org"}, r"describes another one, 'https://bank\.example\.org'"),
        ({}, {"code_challenge_methods_supported": ["plain"]}, "code_challenge_methods_supported lacks S256"),
        ({}, {"dpop_signing_alg_values_supported": None}, "dpop_signing_alg_values_supported lacks ES256"),
        ({}, {"require_pushed_authorization_requests": False}, "require_pushed_authorization_requests lacks True"),
        ({}, {"authorization_response_iss_parameter_supported": "yes"}, "iss_parameter_supported lacks True"),
        ({}, {"token_endpoint": None}, "does not say where logins go"),
    ],
)
def test_a_server_that_describes_itself_otherwise_is_not(
    web: WebServer, http: Http, resource: dict[str, Any], server: dict[str, Any], message: str
) -> None:
    described(web, resource, server)
    with pytest.raises(LoginError, match=message):
        AuthorizationServer.of(web.endpoint, http)


def test_a_description_is_not_taken_from_elsewhere(web: WebServer, http: Http) -> None:
    described(web, {}, {})
    web.redirect(".well-known/oauth-protected-resource", web.url("elsewhere"))
    with pytest.raises(LoginError, match=r"has no login by browser; use an app password \(302\)"):
        AuthorizationServer.of(web.endpoint, http)


def test_what_a_server_names_has_to_be_public(web: WebServer, http: Http) -> None:
    described(web, {"authorization_servers": ["file:///etc"]}, {})
    with pytest.raises(UnsafeUrlError, match="'file:///etc' is not opened: only https is"):
        AuthorizationServer.of(web.endpoint, http)
    strict = Http()
    with pytest.raises(UnsafeUrlError, match="is not opened: what comes by plain http"):
        AuthorizationServer.of(web.endpoint, strict)
    strict.close()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, b"", "the authorization server answers 500"),
        (
            400,
            b'{"error": "invalid_client", "error_description": "SECRET"}',
            "the login is refused: 400 invalid_client",
        ),
        (400, b'{"error": "\\u001b[31m"}', r"the login is refused: 400 \[http"),
        (201, b"[]", "the login is refused: 201"),
    ],
)
def test_a_request_that_a_server_does_not_take_is_told_without_its_words(
    web: WebServer, http: Http, resolver: Resolver, status: int, body: bytes, message: str
) -> None:
    described(web, {}, {})
    web.answer("par", status, {}, body)
    http.tries = 1
    with pytest.raises(AtmosphereError, match=message) as caught:
        log_in(http, resolver, None, lambda page, redirect: None, pds_url=web.endpoint)
    assert "SECRET" not in str(caught.value)


# ---- where the browser comes back to


def come(url: str, **query: str) -> int:
    return httpx.get(url, params=query, trust_env=False).status_code


def test_only_the_answer_that_is_waited_for_counts() -> None:
    with Redirect("STATE", "https://a.example.org") as redirect:
        port = urlsplit(redirect.url).port
        good = {"state": "STATE", "iss": "https://a.example.org", "code": "CODE"}
        assert come(redirect.url, **good | {"state": "guessed"}) == 400
        assert come(redirect.url, **good | {"iss": "https://b.example.org"}) == 400
        assert come(redirect.url, code="CODE") == 400
        assert come(f"{redirect.url}?state=STATE&state=STATE&iss=https://a.example.org&code=C") == 400
        assert come(f"http://127.0.0.1:{port}/favicon.ico") == 404
        assert come(f"http://localhost:{port}/callback", **good) == 404
        with pytest.raises(LoginError, match="nobody finished the login"):
            redirect.wait(0.1)
        assert come(redirect.url, **good) == 200
        assert redirect.wait(10) == "CODE"
    with pytest.raises(httpx.ConnectError):
        come(redirect.url, **good)


def test_it_listens_on_this_machine_only_and_tells_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Redirect("STATE", "https://a.example.org") as redirect:
        assert redirect.url.startswith("http://127.0.0.1:")
        answer = httpx.get(redirect.url, params={"code": "SECRET"}, trust_env=False)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "SECRET" not in answer.text + str(answer.headers)
    assert "SECRET" not in str(capfd.readouterr())


def test_an_address_can_be_brought_by_hand() -> None:
    with Redirect("STATE", "https://a.example.org") as redirect:
        assert redirect.take("http://127.0.0.1/?x") == "it belongs to another login, or an earlier one"
        assert redirect.take("http://[") == "it makes no sense"
        assert redirect.take(f"{redirect.url}?state=STATE&iss=x&code=C") == (
            "it is from another server than the one that was asked"
        )
        assert redirect.take(f"{redirect.url}?state=STATE&iss=https%3A%2F%2Fa.example.org&code=C") == ""
        assert redirect.wait(10) == "C"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"error": "access_denied"}, "the login was refused in the browser"),
        ({"error": "server_error\x1b"}, r"the login failed at the server: 'server_error\\x1b'"),
        ({}, "sent the browser back without a code"),
    ],
)
def test_an_answer_without_a_code_is_told(query: dict[str, str], message: str) -> None:
    with Redirect("STATE", "https://a.example.org") as redirect:
        threading.Thread(
            target=come, args=(redirect.url,), kwargs={"state": "STATE", "iss": "https://a.example.org"} | query
        ).start()
        with pytest.raises(LoginError, match=message):
            redirect.wait(10)


# ---- proofs


def decoded(text: str) -> dict[str, Any]:
    return dict(json.loads(base64.urlsafe_b64decode(text + "==")))


@given(st.integers(1, 2**256 - 2**224), st.sampled_from(["", "token"]))
def test_a_proof_is_signed_by_the_key_that_it_names(number: int, token: str) -> None:
    key = DpopKey.load(base64.urlsafe_b64encode(number.to_bytes(32, "big")).decode().rstrip("="))
    assert DpopKey.load(key.dump()).dump() == key.dump()
    head, claims, signature = key.proof("POST", "https://a.example.org/b?c=d#e", token).split(".")
    jwk = decoded(head)["jwk"]
    x, y = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "="), "big") for name in ("x", "y"))
    raw = base64.urlsafe_b64decode(signature + "==")
    made = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    public.verify(made, f"{head}.{claims}".encode(), ec.ECDSA(SHA256()))
    assert decoded(head) == {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}
    assert "d" not in jwk
    said = decoded(claims)
    assert (said["htm"], said["htu"]) == ("POST", "https://a.example.org/b")
    assert ("ath" in said) == bool(token)
    assert abs(said["iat"] - time.time()) < 60


def test_each_proof_is_new_and_has_the_nonce_of_its_server() -> None:
    key = DpopKey.make()
    key.seen("https://a.example.org/x", {"dpop-nonce": "N1"})
    key.seen("https://a.example.org/y", {"dpop-nonce": "N2"})
    key.seen("https://a.example.org/y", {})
    key.seen("https://a.example.org/y", {"dpop-nonce": "bad\nnonce"})
    first, second = (decoded(key.proof("GET", "https://a.example.org/").split(".")[1]) for _ in range(2))
    assert (first["nonce"], second["nonce"]) == ("N2", "N2")
    assert first["jti"] != second["jti"]
    assert "nonce" not in decoded(key.proof("GET", "https://b.example.org/").split(".")[1])
    assert key.nonce_age("https://b.example.org/") == float("inf")
    assert key.nonce_age("https://a.example.org/z") < 60


def test_the_page_for_the_browser_has_no_more_than_it_needs(
    alice: LocalAccount, http: Http, resolver: Resolver
) -> None:
    pages: list[str] = []
    with pytest.raises(LoginError, match="nobody finished"):
        log_in(http, resolver, alice.handle, lambda page, redirect: pages.append(page), seconds=0.1)
    assert pages[0].startswith(f"{alice.pds}/oauth/authorize?")
    assert set(parse_qs(urlsplit(pages[0]).query)) == {"client_id", "request_uri"}
