"""`Atmosphere.login()` without a password: with the login that was saved, or that of the environment."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import approving

from atdata.atmosphere import Atmosphere
from atdata.atmosphere.credentials import Account, Credentials
from atdata.atmosphere.login import end, remember
from atdata.atmosphere.oauth import log_in
from atdata.atmosphere.session import PasswordSession
from atdata.errors import LoginError, UnreachableError
from atdata.testing import LocalNetwork
from atdata.testing.network import LocalAccount
from servers.atproto import SharedNetwork

LABEL = "science.alt.dataset.label"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atproto: SharedNetwork) -> Path:
    for name in ("ATDATA_HANDLE", "ATDATA_APP_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "XDG_CONFIG_HOME": str(tmp_path),
        "ATDATA_CREDENTIALS": "file",
        "ATDATA_ALLOW_PRIVATE": "1",
        "ATDATA_PLC_DIRECTORY": atproto.directory,
        "ATDATA_HANDLES_AT": atproto.pds[0],
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "atdata" / "accounts"


@pytest.fixture
def alice(atproto: SharedNetwork) -> LocalAccount:
    return atproto.make_account()


def saved_by_password(account: LocalAccount) -> Account:
    with Atmosphere.login(account.handle, account.password) as client:
        assert isinstance(client.auth, PasswordSession)
        assert client.identity is not None
        return remember(client.auth, client.identity, credentials=Credentials())


def saved_by_browser(account: LocalAccount) -> Account:
    with Atmosphere() as client:
        session, identity = log_in(client.http, client.resolver, account.handle, approving(account))
        return remember(session, identity, credentials=Credentials())


@pytest.fixture(params=[saved_by_password, saved_by_browser])
def saved(request: pytest.FixtureRequest, alice: LocalAccount) -> Account:
    return request.param(alice)


@pytest.fixture
def client(saved: Account) -> Iterator[Atmosphere]:
    with Atmosphere.login() as found:
        yield found


def write(client: Atmosphere, rkey: str = "a") -> str:
    return client.put_record(LABEL, rkey, {"$type": LABEL, "name": rkey}).cid


def tokens(config: Path, did: str) -> dict[str, str]:
    return json.loads((config / f"{did}.json").read_text())["secrets"]


# ---- whose login


def test_a_saved_login_goes_on_without_a_password(saved: Account, client: Atmosphere, alice: LocalAccount) -> None:
    assert (client.did, client.handle) == (alice.did, alice.handle)
    assert write(client)
    for name in (alice.handle, f"@{alice.handle}", alice.did):
        with Atmosphere.login(name) as again:
            assert again.did == alice.did


def test_the_account_that_logged_in_last_is_meant(
    atproto: SharedNetwork, alice: LocalAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = atproto.make_account(1)
    for account in (alice, bob):
        saved_by_password(account)
    with Atmosphere.login() as client:
        assert client.did == bob.did
        write(client)
    monkeypatch.setenv("ATDATA_HANDLE", alice.handle)
    with Atmosphere.login() as client:
        assert client.did == alice.did


def test_an_app_password_in_the_environment_logs_in(
    alice: LocalAccount, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    monkeypatch.setenv("ATDATA_HANDLE", alice.handle)
    monkeypatch.setenv("ATDATA_APP_PASSWORD", alice.password)
    with Atmosphere.login() as client:
        assert client.did == alice.did
        write(client)
    assert not config.exists()
    monkeypatch.setenv("ATDATA_APP_PASSWORD", "wrong")
    with pytest.raises(LoginError, match=rf"does not know the account '{alice.handle}', or its password is another"):
        Atmosphere.login()


def test_without_any_login_it_says_what_to_do() -> None:
    with pytest.raises(LoginError, match="nobody is logged in: run atdata login"):
        Atmosphere.login()
    with pytest.raises(LoginError, match="a password is given, and nobody it belongs to"):
        Atmosphere.login(password="x")


# ---- how it goes on


def test_new_tokens_are_saved_and_taken_by_others(saved: Account, client: Atmosphere, config: Path) -> None:
    with Atmosphere.login() as other:
        before = tokens(config, saved.did)
        assert client.auth is not None
        after = before
        until = time.monotonic() + 60
        while after["access"] == before["access"]:  # the server's tokens of one second are the same
            assert time.monotonic() < until
            client.auth.renew()  # type: ignore[attr-defined]
            after = tokens(config, saved.did)
        assert before["refresh"] != after["refresh"]
        assert other.auth is not None
        other.auth.renew(before["access"])  # type: ignore[attr-defined]
        assert tokens(config, saved.did) == after
        write(other)
    write(client)


def test_an_access_token_that_has_ended_is_renewed_in_the_midst(
    saved: Account, alice: LocalAccount, config: Path
) -> None:
    file = config / f"{saved.did}.json"
    document = json.loads(file.read_text())
    broken = document["secrets"]["access"][:-8] + "AAAAAAAA"  # a signature that is not the server's
    document["secrets"]["access"] = broken
    file.write_text(json.dumps(document))
    with Atmosphere.login() as client:
        write(client)
    assert tokens(config, saved.did)["access"] != broken


def use(times: int) -> None:
    with Atmosphere.login() as client:
        for number in range(times):
            client.auth.renew()  # type: ignore[union-attr]
            write(client, f"number-{number}")


@pytest.mark.slow
def test_processes_use_one_login_at_once(saved: Account) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=use, args=(3,)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    use(1)


def written_elsewhere(pickled: bytes) -> None:
    client = pickle.loads(pickled)
    assert client.auth is None  # until it is needed
    write(client, "elsewhere")
    client.close()


def test_a_pickled_client_logs_in_again_where_it_is_needed(saved: Account, client: Atmosphere, config: Path) -> None:
    pickled = pickle.dumps(client)
    for secret in tokens(config, saved.did).values():
        assert secret.encode() not in pickled or secret in (saved.pds, "http://localhost")
    with pickle.loads(pickled) as again:
        assert (again.did, again.handle, repr(again)) == (client.did, client.handle, repr(client))
    process = multiprocessing.get_context("spawn").Process(target=written_elsewhere, args=(pickled,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert list(client.list_records(saved.did, LABEL))


def test_a_pickled_client_of_the_environment_logs_in_again(
    alice: LocalAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATDATA_HANDLE", alice.handle)
    monkeypatch.setenv("ATDATA_APP_PASSWORD", alice.password)
    with Atmosphere.login(pds_url=alice.pds) as client:
        pickled = pickle.dumps(client)
    assert alice.password.encode() not in pickled
    with pickle.loads(pickled) as again:
        write(again)
    monkeypatch.delenv("ATDATA_APP_PASSWORD")
    with pickle.loads(pickled) as again, pytest.raises(LoginError, match=r"no login of .* is saved"):
        write(again)


# ---- how it ends


def test_a_login_that_is_ended_is_gone_here_and_there(saved: Account, client: Atmosphere, config: Path) -> None:
    old = tokens(config, saved.did)
    assert end(saved, client.http, Credentials()) is None
    assert Credentials().accounts() == []
    with pytest.raises(LoginError, match="nobody is logged in"):
        Atmosphere.login()
    if saved.kind == "password":
        answer = httpx.post(
            f"{saved.pds}/xrpc/com.atproto.server.refreshSession", headers={"authorization": f"Bearer {old['refresh']}"}
        )
        assert answer.json()["error"] in ("ExpiredToken", "InvalidToken")
    with pytest.raises(LoginError, match="somebody has logged out"):
        client.auth.renew()  # type: ignore[union-attr]


def test_a_login_that_was_revoked_says_so(saved: Account, client: Atmosphere, config: Path) -> None:
    with Atmosphere.login() as other:
        other.auth.end()  # type: ignore[union-attr]
    with pytest.raises(LoginError, match="is over, or was revoked: run atdata login again"):
        client.auth.renew()  # type: ignore[union-attr]


def test_an_account_that_has_moved_has_to_log_in_again(saved: Account, config: Path) -> None:
    file = config / f"{saved.did}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pds": "https://old.example.org"}))
    with pytest.raises(LoginError, match=r"has moved to http://localhost:\d+ since the login: run atdata login again"):
        Atmosphere.login()


@pytest.mark.slow
def test_a_server_that_is_gone_can_be_logged_out_of(own_atproto: LocalNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATDATA_PLC_DIRECTORY", own_atproto.directory)
    monkeypatch.setenv("ATDATA_HANDLES_AT", own_atproto.pds[0])
    account = saved_by_password(own_atproto.make_account())
    own_atproto.kill()
    with Atmosphere() as client:
        client.http.tries = 1
        assert isinstance(end(account, client.http, Credentials()), UnreachableError)
    assert Credentials().accounts() == []
