"""What `atdata login` saves: who may read it, which account is meant, and what becomes of it on bad days."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backends import fail
from own_keyring import OwnKeyring

from atdata.atmosphere import credentials as module
from atdata.atmosphere.credentials import Account, Credentials, choose, from_environment, place_for_secrets
from atdata.errors import AtmosphereError, LoginError

ALICE = Account("did:plc:alice", "alice.example.org", "https://pds.example.org", "password", "file")
BOB = Account("did:web:bob.example.net", None, "https://pds.example.net", "oauth", "file", given=True)
SECRETS = {"access": "ACCESS-SECRET", "refresh": "REFRESH-SECRET"}


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ATDATA_HANDLE", "ATDATA_APP_PASSWORD", "ATDATA_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config" / "atdata"


@pytest.fixture(autouse=True)
def no_keyring() -> Iterator[None]:
    before = keyring.get_keyring()
    keyring.set_keyring(fail.Keyring())
    yield
    keyring.set_keyring(before)


@pytest.fixture
def own_keyring(no_keyring: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OWN_KEYRING", str(tmp_path / "keyring.json"))
    keyring.set_keyring(OwnKeyring())
    return tmp_path / "keyring.json"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_saved_is_found_by_handle_did_and_as_the_current_account() -> None:
    saved = Credentials()
    assert saved.accounts() == []
    assert saved.current() is None
    saved.add(ALICE, SECRETS)
    saved.add(BOB, {"access": "other"})
    again = Credentials()
    assert again.accounts() == [BOB, ALICE]
    assert again.current() == BOB
    for name in ("alice.example.org", "@alice.example.org", "Alice.Example.org", ALICE.did):
        assert again.find(name) == ALICE
    again.use(ALICE.did)
    assert saved.current() == ALICE
    assert saved.kept(ALICE.did).load() == SECRETS
    assert saved.kept(BOB.did).load() == {"access": "other"}


def test_nobody_else_can_read_it(config: Path) -> None:
    old = os.umask(0)
    try:
        Credentials().add(ALICE, SECRETS)
        with Credentials().kept(ALICE.did).turn():
            Credentials().kept(ALICE.did).save({**SECRETS, "access": "new"})
    finally:
        os.umask(old)
    assert mode(config) == mode(config / "accounts") == 0o700
    files = [path for path in config.rglob("*") if path.is_file()]
    assert {mode(path) for path in files} == {0o600}
    assert {path.name for path in files} == {"did:plc:alice.json", "did:plc:alice.lock", "current"}


def test_a_folder_that_others_could_read_is_closed(config: Path) -> None:
    (config / "accounts").mkdir(parents=True)
    config.chmod(0o755)
    (config / "accounts").chmod(0o777)
    Credentials().add(ALICE, SECRETS)
    assert mode(config) == mode(config / "accounts") == 0o700


def test_a_login_that_others_can_read_is_refused(config: Path) -> None:
    Credentials().add(ALICE, SECRETS)
    (config / "accounts" / f"{ALICE.did}.json").chmod(0o644)
    with pytest.raises(LoginError, match=r"alice\.json can be read by others than you.*chmod 600") as caught:
        Credentials().current()
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged: remove it, and run atdata login again"),
        ("[]", "is damaged"),
        ('{"version": 1}', "is damaged"),
        ('{"version": 1, "did": 5, "handle": null, "pds": "x", "kind": "password", "place": "file"}', "is damaged"),
        ('{"version": 1, "did": "did:plc:a", "handle": null, "pds": "x", "kind": "other", "place": "file"}', "damaged"),
        (
            '{"version": 2, "did": "did:plc:a", "handle": null, "pds": "x", "kind": "other", "place": "file"}',
            "another v",
        ),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_damaged_login_is_told(config: Path, text: str, message: str) -> None:
    Credentials().add(ALICE, SECRETS)
    (config / "accounts" / f"{ALICE.did}.json").write_text(text)
    with pytest.raises(LoginError, match=message):
        Credentials().accounts()


def test_secrets_are_in_no_repr() -> None:
    saved = Credentials()
    saved.add(ALICE, SECRETS)
    assert "SECRET" not in repr((saved, saved.accounts(), saved.kept(ALICE.did)))


def test_a_removed_login_is_gone_and_another_is_not_taken_for_it() -> None:
    saved = Credentials()
    for account in (ALICE, BOB):
        saved.add(account, SECRETS)
    saved.remove(BOB.did)
    saved.remove(BOB.did)
    assert saved.accounts() == [ALICE]
    assert saved.current() == ALICE
    with pytest.raises(LoginError, match=r"did:web:bob\.example\.net is saved no more, somebody has logged out"):
        saved.kept(BOB.did).load()
    with pytest.raises(LoginError, match="somebody has logged out"):
        saved.kept(BOB.did).save(SECRETS)
    saved.remove(ALICE.did)
    assert saved.current() is None


def test_of_several_accounts_one_has_to_be_named(config: Path) -> None:
    for account in (ALICE, BOB):
        Credentials().add(account, SECRETS)
    (config / "current").unlink()
    with pytest.raises(LoginError, match=r"which account\? Logins are saved of did:web:bob\.example\.net, alice"):
        Credentials().current()


def test_a_name_that_cannot_be_is_refused() -> None:
    with pytest.raises(LoginError, match=r"'did:plc:\.\./\.\./x' is no DID"):
        Credentials().kept("did:plc:../../x")
    Credentials().add(ALICE._replace(did="did:plc:" + "a" * 1000), SECRETS)
    assert Credentials().accounts()[0].did == "did:plc:" + "a" * 1000


# ---- who is meant


def test_the_environment_comes_before_what_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment() is None
    for account in (BOB, ALICE):
        Credentials().add(account, SECRETS)
    assert choose() == ALICE
    assert choose(BOB.did) == BOB
    monkeypatch.setenv("ATDATA_HANDLE", BOB.did)
    assert choose() == BOB
    monkeypatch.setenv("ATDATA_HANDLE", "carol.example.org")
    monkeypatch.setenv("ATDATA_APP_PASSWORD", "abcd")
    assert choose() == choose("@carol.example.org") == ("carol.example.org", "abcd")
    assert choose("alice.example.org") == ALICE


def test_without_a_login_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoginError, match="nobody is logged in: run atdata login, or set ATDATA_HANDLE and ATDATA_APP_"):
        choose()
    with pytest.raises(LoginError, match=r"no login of 'dave\.example' is saved: run atdata login dave\.example"):
        choose("dave.example")
    Credentials().add(ALICE, SECRETS)
    with pytest.raises(LoginError, match=r"is saved; there is of alice\.example\.org: run"):
        choose("dave.example")
    monkeypatch.setenv("ATDATA_APP_PASSWORD", "abcd")
    with pytest.raises(LoginError, match="ATDATA_HANDLE is not: set both"):
        choose()


# ---- several at once, and bad days


def renew(folder: Path, times: int) -> None:
    """What a session does: take a turn, look what is there, replace it."""
    for _ in range(times):
        kept = Credentials(folder).kept(ALICE.did)
        with kept.turn():
            found = kept.load()
            kept.save({"count": str(int(found["count"]) + 1)})


def test_processes_and_threads_take_turns(config: Path) -> None:
    Credentials().add(ALICE, {"count": "0"})
    context = multiprocessing.get_context("spawn")
    at_work = [context.Process(target=renew, args=(config, 25)) for _ in range(2)]
    at_work += [threading.Thread(target=renew, args=(config, 25)) for _ in range(2)]  # type: ignore[list-item]
    for each in at_work:
        each.start()
    for each in at_work:
        each.join()
    assert Credentials().kept(ALICE.did).load() == {"count": "100"}
    assert [path.name for path in (config / "accounts").iterdir() if path.name.startswith(".new-")] == []


def test_a_turn_ends_though_a_fork_outlives_it() -> None:
    Credentials().add(ALICE, SECRETS)
    kept = Credentials().kept(ALICE.did)
    reading, writing = os.pipe()
    with kept.turn():
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    try:
        with kept.turn():
            pass
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        os.close(reading)


def test_who_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TURN_SECONDS", 0.1)
    Credentials().add(ALICE, SECRETS)
    kept = Credentials().kept(ALICE.did)
    with (
        kept.turn(),
        pytest.raises(LoginError, match=r"another process has been renewing .*see who holds .*\.lock"),
        kept.turn(),
    ):
        pass


def test_a_disk_that_takes_nothing_leaves_the_old_login(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Credentials().add(ALICE, SECRETS)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    kept = Credentials().kept(ALICE.did)
    with kept.turn(), pytest.raises(LoginError, match=r"cannot be saved in .*: No space left on device"):
        kept.save({"access": "new"})
    assert kept.load() == SECRETS
    assert sorted(path.name for path in (config / "accounts").iterdir()) == ["did:plc:alice.json", "did:plc:alice.lock"]


# ---- keyrings


def test_without_a_keyring_logins_are_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place_for_secrets() == "file"
    monkeypatch.setenv("ATDATA_CREDENTIALS", "keyring")
    with pytest.raises(AtmosphereError, match="this system has no keyring that can be used"):
        place_for_secrets()
    monkeypatch.setenv("ATDATA_CREDENTIALS", "vault")
    with pytest.raises(AtmosphereError, match="ATDATA_CREDENTIALS is 'vault': say file or keyring"):
        place_for_secrets()


def test_a_keyring_is_used_unless_files_are_asked_for(own_keyring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place_for_secrets() == "keyring"
    monkeypatch.setenv("ATDATA_CREDENTIALS", "file")
    assert place_for_secrets() == "file"


def test_what_a_keyring_keeps_is_in_no_file(own_keyring: Path, config: Path) -> None:
    saved = Credentials()
    saved.add(ALICE._replace(place="keyring"), SECRETS)
    for path in config.rglob("*"):
        assert path.is_dir() or "SECRET" not in path.read_text()
    kept = Credentials().kept(ALICE.did)
    assert kept.load() == SECRETS
    with kept.turn():
        kept.save({**SECRETS, "access": "new"})
    assert kept.load()["access"] == "new"
    saved.remove(ALICE.did)
    assert json.loads(own_keyring.read_text()) == {}


def test_a_login_that_moves_to_a_file_leaves_the_keyring(own_keyring: Path) -> None:
    saved = Credentials()
    saved.add(ALICE._replace(place="keyring"), SECRETS)
    saved.add(ALICE, SECRETS)
    assert json.loads(own_keyring.read_text()) == {}
    assert saved.kept(ALICE.did).load() == SECRETS


def test_a_keyring_that_lost_it_or_fails_is_told_without_its_words(
    own_keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Credentials()
    saved.add(ALICE._replace(place="keyring"), SECRETS)
    own_keyring.write_text("{}")
    with pytest.raises(LoginError, match="the keyring has no login of did:plc:alice any more"):
        saved.kept(ALICE.did).load()
    own_keyring.with_suffix(".mood").write_text("locked")
    with pytest.raises(
        LoginError, match=r"does not read the login \(RuntimeError\): unlock it, or keep logins in files"
    ) as caught:
        saved.kept(ALICE.did).load()
    assert "hunter2" not in str(caught.value)
    own_keyring.with_suffix(".mood").write_text("silent")
    monkeypatch.setattr(module, "_KEYRING_SECONDS", 0.1)
    with pytest.raises(LoginError, match="it has not answered in 0 s"):
        saved.kept(ALICE.did).load()


def test_a_login_in_a_keyring_needs_the_package(own_keyring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Credentials()
    saved.add(ALICE._replace(place="keyring"), SECRETS)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(AtmosphereError, match="needs the package keyring: pip install keyring"):
        saved.kept(ALICE.did).load()
    assert place_for_secrets() == "file"
    monkeypatch.setenv("ATDATA_CREDENTIALS", "keyring")
    with pytest.raises(AtmosphereError, match="ATDATA_CREDENTIALS=keyring needs the package keyring"):
        place_for_secrets()
