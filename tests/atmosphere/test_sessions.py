"""Sessions by password: how they begin, go on and end, and that nothing shows what is secret."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import hmac
import json
import logging
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atdata.atmosphere import Atmosphere, Write
from atdata.atmosphere import http as http_module
from atdata.atmosphere.http import Http
from atdata.atmosphere.session import PasswordSession, Tokens
from atdata.errors import AtmosphereError, IdentityError, LoginError, RateLimitError, UnreachableError, XrpcError
from atdata.testing import FaultProxy, LocalNetwork
from forking import in_fork
from servers.atproto import SharedNetwork
from servers.rude import RudeServer

Login = Callable[..., Atmosphere]
THING = "com.example.thing"
REFRESH = "com.atproto.server.refreshSession"


@pytest.fixture(scope="module")
def strict() -> Iterator[LocalNetwork]:
    """A network with limits, of which the secrets are known."""
    with LocalNetwork(blob_limit=1 << 20, rate_limits=True) as network:
        yield network


@contextlib.contextmanager
def logged_in(network: LocalNetwork, pds_url: str | None = None) -> Iterator[Atmosphere]:
    account = network.make_account()
    options: dict[str, Any] = {"directory": network.directory, "allow_private": True}
    with Atmosphere.login(account.handle, account.password, pds_url=pds_url or account.pds, **options) as client:
        yield client


def session(client: Atmosphere) -> PasswordSession:
    assert isinstance(client.auth, PasswordSession)
    return client.auth


def expire(client: Atmosphere, network: LocalNetwork) -> str:
    """Give the client an access token of yesterday, which the server made, as far as the server can tell."""
    secret = next(network.folder.rglob("jwt-secret")).read_text().strip()
    head, payload, _ = session(client).tokens.access.split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "=="))
    said |= {"iat": said["iat"] - 90_000, "exp": said["iat"] - 86_400}
    payload = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    signature = hmac.digest(secret.encode(), f"{head}.{payload}".encode(), "sha256")
    token = f"{head}.{payload}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    session(client)._tokens = session(client)._tokens._replace(access=token)
    return token


def refreshed(proxy: FaultProxy) -> int:
    return len([request for request in proxy.requests("POST") if REFRESH in request.path])


# -- how they begin


def test_a_login_by_handle_finds_the_server(atproto: SharedNetwork) -> None:
    account = atproto.make_account(pds=1)
    options: dict[str, Any] = {"directory": atproto.directory, "allow_private": True, "handles_at": atproto.pds[0]}
    for identifier in (account.handle, f"@{account.handle.upper()}", account.did):
        with Atmosphere.login(identifier, account.password, **options) as client:
            assert (client.did, client.handle) == (account.did, account.handle)
            assert client.identity is not None
            assert client.identity.pds == account.pds
            assert repr(client) == f"Atmosphere({account.handle})"
            client.put_record(THING, "a", {})


@pytest.mark.parametrize("who", ["handle", "did"])
def test_a_wrong_password(atproto: SharedNetwork, who: str) -> None:
    account = atproto.make_account()
    identifier = getattr(account, who)
    with pytest.raises(
        LoginError, match=rf"the server does not know the account '{identifier}', or its password is another"
    ):
        Atmosphere.login(identifier, "wrong", pds_url=account.pds, directory=atproto.directory, allow_private=True)


def test_an_account_that_the_server_does_not_have(atproto: SharedNetwork) -> None:
    options: dict[str, Any] = {"directory": atproto.directory, "allow_private": True}
    with pytest.raises(LoginError, match=r"does not know the account 'nobody.pds0.test', or .* \[http://localhost"):
        Atmosphere.login(
            "nobody.pds0.test", "x", pds_url=atproto.pds[0], directory=atproto.directory, allow_private=True
        )
    with pytest.raises(IdentityError, match=r"knows no handle nobody.pds0.test"):
        Atmosphere.login("nobody.pds0.test", "x", handles_at=atproto.pds[0], **options)


def test_a_login_to_what_is_no_server_of_the_network(rude: RudeServer) -> None:
    options: dict[str, Any] = {"pds_url": rude.url(), "directory": rude.url(), "allow_private": True}
    with pytest.raises(LoginError, match=r"the login of 'alice.test' is refused: 404"):
        Atmosphere.login("alice.test", "x", **options)
    for nonsense in (
        {},
        {"did": "did:plc:a", "handle": "a.test", "accessJwt": "a", "refreshJwt": 5},
        {"did": "x", "handle": "a.test", "accessJwt": "a", "refreshJwt": "b"},
        {"did": "did:plc:a", "handle": "a.test", "accessJwt": "a\r\nX: y", "refreshJwt": "b"},
    ):
        rude.json("/xrpc/com.atproto.server.createSession", nonsense)
        with pytest.raises(AtmosphereError, match=r"the server's answer to the login makes no sense"):
            Atmosphere.login("alice.test", "x", **options)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("AuthFactorTokenRequired", "'alice.test' wants a code from an e-mail at each login: make an app password"),
        ("AccountTakedown", "the account 'alice.test' was taken down by its server"),
        ("Something", "the server does not know the account 'alice.test', or its password is another"),
    ],
)
def test_logins_that_a_password_does_not_suffice_for(rude: RudeServer, error: str, message: str) -> None:
    rude.json("/xrpc/com.atproto.server.createSession", {"error": error, "message": "m"}, 401)
    with pytest.raises(LoginError, match=message):
        Atmosphere.login("alice.test", "x", pds_url=rude.url(), allow_private=True)


def test_a_server_that_logs_somebody_else_in(atproto: SharedNetwork, rude: RudeServer) -> None:
    account, other = atproto.make_account(), atproto.make_account()
    rude.json(
        "/xrpc/com.atproto.server.createSession",
        {"did": other.did, "handle": other.handle, "accessJwt": "a", "refreshJwt": "r"},
    )
    with pytest.raises(LoginError, match=rf"the server logged in {other.did} instead of {account.did}"):
        Atmosphere.login(account.did, "x", pds_url=rude.url(), directory=atproto.directory, allow_private=True)


def test_a_server_that_logs_somebody_else_in_by_handle(atproto: SharedNetwork, rude: RudeServer) -> None:
    """The server is the one that the handle's account names; it says afterwards that it was somebody else."""
    alice, other = "did:plc:" + "a" * 24, atproto.make_account()
    service = {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": rude.url()}
    key = {"id": "#atproto", "publicKeyMultibase": "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF"}
    names = ["at://alice.test"]
    rude.json(f"/{alice}", {"id": alice, "alsoKnownAs": names, "service": [service], "verificationMethod": [key]})
    rude.json("/xrpc/com.atproto.identity.resolveHandle", {"did": alice})
    tokens = {"accessJwt": "a", "refreshJwt": "r"}
    rude.json("/xrpc/com.atproto.server.createSession", {"did": other.did, "handle": other.handle, **tokens})
    with pytest.raises(LoginError, match=f"the server logged in {other.did} instead of {alice}"):
        Atmosphere.login("alice.test", "x", directory=rude.url(), handles_at=rude.url(), allow_private=True)


def test_too_many_logins(atproto: SharedNetwork, rude: RudeServer) -> None:
    body = b'{"error":"RateLimitExceeded","message":"Rate Limit Exceeded"}'
    rude.answer("/xrpc/com.atproto.server.createSession", 429, body, {"RateLimit-Reset": f"{time.time() + 300:.0f}"})
    with pytest.raises(
        RateLimitError, match=r"the server takes no more logins of 'alice.test' for (2\d\d|300) s"
    ) as caught:
        Atmosphere.login("alice.test", "x", pds_url=rude.url(), allow_private=True)
    assert 290 < (caught.value.retry_at or 0) - time.time() < 301


# -- how they go on


def test_a_token_that_is_over_is_renewed_once(strict: LocalNetwork) -> None:
    """By whatever thread comes first; the others take the new one."""
    with FaultProxy(strict.pds[0]) as proxy, logged_in(strict, proxy.endpoint) as client:
        old = expire(client, strict)
        client.put_record(THING, "a", {"n": 1})
        assert session(client).tokens.access != old
        assert refreshed(proxy) == 1
        expire(client, strict)
        together = threading.Barrier(8)
        failed: list[BaseException] = []

        def write(number: int) -> None:
            together.wait()
            try:
                client.put_record(THING, f"t{number}", {"n": number})
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert refreshed(proxy) == 2
        assert len(list(client.list_records(str(client.did), THING))) == 9


@pytest.mark.parametrize("form", [list, iter])
def test_a_token_that_is_over_when_bytes_are_sent(strict: LocalNetwork, form: Any) -> None:
    """Also bytes that can be sent only once."""
    with logged_in(strict) as client:
        expire(client, strict)
        assert client.upload_blob(form([b"x" * 1000] * 100), 100_000, "text/plain")["size"] == 100_000


def test_a_session_that_is_revoked_in_mid_upload(strict: LocalNetwork) -> None:
    """Somebody logs out elsewhere: what was sent stays sent, and a new login goes on."""
    with logged_in(strict) as client:
        client.upload_blob(b"first", 5, "text/plain")
        copy_of = PasswordSession(session(client).base, client.http, session(client).tokens)
        copy_of.end()
        expire(client, strict)
        over = f"the session of {client.handle} is over, or was revoked: log in again"
        for _ in range(2):
            with pytest.raises(LoginError, match=over):
                client.upload_blob([b"second"], 6, "text/plain")
        with pytest.raises(LoginError, match=over):
            client.apply_writes([Write("create", THING, "a", {})])
        assert client.get_record(f"at://{client.did}/{THING}/a") is None, "what anybody may read can still be read"


def test_after_logging_out_nothing_is_sent(strict: LocalNetwork) -> None:
    with FaultProxy(strict.pds[0]) as proxy, logged_in(strict, proxy.endpoint) as client:
        session(client).end()
        session(client).end()
        proxy.forget()
        with pytest.raises(LoginError, match=r"is over, or was revoked: log in again"):
            client.put_record(THING, "a", {})
        with pytest.raises(LoginError, match=r"is over, or was revoked: log in again"):
            session(client).renew()
        assert proxy.requests() == []


def test_a_server_that_is_away_when_a_token_is_over(strict: LocalNetwork) -> None:
    """The session is not lost for that."""
    with FaultProxy(strict.pds[0]) as proxy, logged_in(strict, proxy.endpoint) as client:
        expire(client, strict)
        client.http.tries = 2
        proxy.answer_next(503, count=2, path=REFRESH)
        with pytest.raises(XrpcError, match=r"refreshSession: the server answers 503"):
            client.put_record(THING, "a", {})
        client.put_record(THING, "a", {})


def test_a_renewal_of_another_account(strict: LocalNetwork) -> None:
    with FaultProxy(strict.pds[0]) as proxy, logged_in(strict, proxy.endpoint) as client:
        body = {"did": "did:plc:other", "handle": "o.test", "accessJwt": "a", "refreshJwt": "r"}
        proxy.answer_next(200, path=REFRESH, body=json.dumps(body))
        with pytest.raises(LoginError, match=r"the server gave the session of another account"):
            session(client).renew()


def test_a_server_that_never_takes_the_token(strict: LocalNetwork) -> None:
    """It is not asked without end."""
    with FaultProxy(strict.pds[0]) as proxy, logged_in(strict, proxy.endpoint) as client:
        proxy.answer_next(401, count=100, path="putRecord", body='{"error":"InvalidToken","message":"no"}')
        with pytest.raises(LoginError, match=r"putRecord: the server wants another login \(InvalidToken\): no"):
            client.put_record(THING, "a", {})
        assert len([request for request in proxy.requests("POST") if "putRecord" in request.path]) == 3


def test_a_forked_process_renews_for_itself(strict: LocalNetwork) -> None:
    with logged_in(strict) as client:
        expire(client, strict)
        assert in_fork(lambda: client.put_record(THING, "child", {}).uri.rkey) == "child"
        assert client.put_record(THING, "parent", {}).uri.rkey == "parent"


def test_a_fork_while_a_thread_renews(strict: LocalNetwork) -> None:
    """The lock that the thread holds does not stay locked in the child."""
    with logged_in(strict) as client, session(client)._own_lock():
        assert in_fork(lambda: str(session(client).renew())) == "True"


# -- limits of a real server


@pytest.mark.slow
def test_more_writes_than_a_server_takes_in_an_hour(strict: LocalNetwork) -> None:
    """5,000 points, of which making a record takes 3."""
    with logged_in(strict) as client:
        with pytest.raises(RateLimitError, match=r"applyWrites: the server takes no more requests for ") as caught:
            client.apply_writes([Write("create", THING, None, {"n": n}) for n in range(2000)])
        assert caught.value.__notes__ == ["1600 of 2000 changes were made before, and stay"]
        assert 0 < (caught.value.retry_at or 0) - time.time() <= 3600
        assert len(list(client.list_records(str(client.did), THING))) == 1600


def test_the_limit_of_blobs_is_learnt_and_meant(strict: LocalNetwork) -> None:
    with logged_in(strict) as client:
        assert client.blob_limit == 1 << 20
        data = hashlib.shake_256(b"x").digest(client.blob_limit)
        assert client.upload_blob(data, len(data), "text/plain")["size"] == client.blob_limit
        with pytest.raises(XrpcError, match=r"uploadBlob: this is more than the server takes \(413\)"):
            client.upload_blob(data + b"x", len(data) + 1, "text/plain")


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_publish(strict: LocalNetwork) -> None:
    """Every call was done whole or not at all; the same again completes it, and nothing is there twice."""
    with logged_in(strict) as client:
        client.http.tries = 2
        writes = [Write("create", THING, f"k{n:04}", {"n": n}) for n in range(1000)]
        call, calls = client.http.ask, 0

        def killing(method: str, url: str, **rest: Any) -> Any:
            nonlocal calls
            calls += "applyWrites" in url
            if calls == 3:
                calls += 1
                threading.Timer(0.02, strict.kill).start()
            return call(method, url, **rest)

        client.http.ask = killing  # type: ignore[method-assign]
        with pytest.raises(UnreachableError) as caught:
            client.apply_writes(writes)
        client.http.ask = call  # type: ignore[method-assign]
        wait_for(lambda: strict._process is None)
        strict.resume()
        assert caught.value.__notes__[0].endswith("of 1000 changes were made before, and stay")
        told = int(caught.value.__notes__[0].split()[0])
        there = len(list(client.list_records(str(client.did), THING)))
        assert told in (there, there - 200)
        assert there % 200 == 0
        written = client.apply_writes(writes)
        listed = list(client.list_records(str(client.did), THING, reverse=True))
        assert [(each.uri, each.cid) for each in listed] == [(each.uri, each.cid) for each in written]
        assert len(listed) == 1000


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


# -- what is secret


class Everything(logging.Handler):
    """All that is logged, by whomever."""

    def __init__(self) -> None:
        super().__init__(0)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record) + repr(record.args)


def test_secrets_are_not_shown_logged_or_pickled(atproto: SharedNetwork) -> None:
    account = atproto.make_account()
    logs, root = Everything(), logging.getLogger()
    level = root.level
    root.addHandler(logs)
    root.setLevel(0)
    try:
        options: dict[str, Any] = {"pds_url": account.pds, "directory": atproto.directory, "allow_private": True}
        with Atmosphere.login(account.handle, account.password, **options) as client:
            client.put_record(THING, "a", {})
            client.upload_blob([b"x"], 1, "text/plain")
            session(client).renew()
            client.put_record(THING, "b", {})
            tokens = session(client).tokens
            shown = [
                repr(each) for each in (client, client.auth, tokens, client.http, client.resolver, client.identity)
            ]
            shown += [str(client), str(client.auth), f"{tokens}", logs.text]
            shown.append(pickle.dumps(client).decode("latin-1"))
            with pytest.raises(TypeError, match=r"a session is not pickled, it is a secret"):
                pickle.dumps(client.auth)
            with pytest.raises(TypeError, match=r"a session is not pickled, it is a secret"):
                copy.deepcopy(client.auth)
        assert "send_request_headers" in logs.text, "something was logged"
        for secret in (account.password, tokens.access, tokens.refresh):
            for text in shown:
                assert secret not in text
                assert base64.b64encode(secret.encode()).decode().rstrip("=") not in text
    finally:
        root.removeHandler(logs)
        root.setLevel(level)


@pytest.mark.parametrize("status", [400, 401, 429, 500, 200])
def test_a_server_that_says_the_password_back_is_not_repeated(
    rude: RudeServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "FIRST", 0.01)
    password = "correct-horse-battery"
    said = {"error": "AuthenticationRequired", "message": f"no {password}", "did": password}
    rude.json("/xrpc/com.atproto.server.createSession", said, status)
    with pytest.raises(AtmosphereError) as caught:
        Atmosphere.login("alice.test", password, pds_url=rude.url(), allow_private=True)
    error = caught.value
    assert password not in "".join(traceback.format_exception(error))
    assert password not in str(error) + repr(error) + repr(vars(error))
    assert password not in pickle.dumps(error).decode("latin-1")


def test_a_password_of_strange_characters(atproto: SharedNetwork, rude: RudeServer) -> None:
    rude.json("/xrpc/com.atproto.server.createSession", {"error": "x"}, 401)
    for password in ('"\\\n', "ü💩", "\ud800"):
        with pytest.raises(AtmosphereError) as caught:
            Atmosphere.login("alice.test", password, pds_url=rude.url(), allow_private=True)
        assert password not in str(caught.value)


def test_the_session_is_sent_to_its_server_only(atproto: SharedNetwork, rude: RudeServer) -> None:
    """Reading what others have is done as anybody may."""
    account = atproto.make_account()
    with FaultProxy(account.pds) as own, FaultProxy(atproto.pds[1]) as other:
        options: dict[str, Any] = {"directory": atproto.directory, "allow_private": True}
        with Atmosphere.login(account.handle, account.password, pds_url=own.endpoint, **options) as client:
            client.put_record(THING, "a", {})
            client.get_record(f"at://{client.did}/{THING}/a")
            list(client.list_records(str(client.did), THING))
            client.http.ask("GET", f"{other.endpoint}/xrpc/com.atproto.server.describeServer", limit=1 << 20)
        with_it = {request.path.partition("?")[0] for request in own.requests() if "authorization" in request.headers}
        assert with_it == {"/xrpc/com.atproto.repo.putRecord"}
        assert all("authorization" not in request.headers for request in other.requests())


def test_tokens_are_told_apart_from_what_they_are_of() -> None:
    tokens = Tokens("did:plc:a", "a.test", "secret-a", "secret-r")
    assert repr(tokens) == "Tokens(did='did:plc:a', handle='a.test')"
    assert repr(PasswordSession("https://a.org/", Http(), tokens)) == "PasswordSession('https://a.org', 'did:plc:a')"
