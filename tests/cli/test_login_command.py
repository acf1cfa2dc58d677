"""`atdata login`, `logout` and `whoami`, at a real server: by password, in the browser, on good days and bad ones."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cli_process import ATDATA, Answer, Terminal, environment

from atdata.testing.network import LocalAccount
from servers.atproto import SharedNetwork

BROWSER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "atmosphere")!r})
import httpx
from browser import Browser
from atdata.testing.network import LocalAccount
back = Browser(sys.argv[2]).log_in(LocalAccount(*open(sys.argv[1]).read().split()))
httpx.get(back, trust_env=False).raise_for_status()
"""

Run = Callable[..., Answer]


@pytest.fixture
def world(tmp_path: Path, atproto: SharedNetwork, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this user's configuration, on a machine without windows that knows the network of the tests."""
    for name in ("ATDATA_HANDLE", "ATDATA_APP_PASSWORD", "BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "ATDATA_CREDENTIALS": "file",
        "ATDATA_ALLOW_PRIVATE": "1",
        "ATDATA_PLC_DIRECTORY": atproto.directory,
        "ATDATA_HANDLES_AT": atproto.pds[0],
        "PYTHONPATH": os.pathsep.join(sys.path),
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "config" / "atdata"


@pytest.fixture
def alice(world: Path, atproto: SharedNetwork) -> LocalAccount:
    return atproto.make_account()


@pytest.fixture
def browser(tmp_path: Path) -> Callable[[LocalAccount], str]:
    """browser(account): what BROWSER has to be for the account's user to log in."""
    script, user = tmp_path / "browser.py", tmp_path / "user"
    script.write_text(BROWSER)

    def of(account: LocalAccount) -> str:
        user.write_text(" ".join(account))
        return f"{sys.executable} {script} {user} %s"

    return of


def typed(text: str, *arguments: str, **extra: str) -> Answer:
    """Runs `atdata` with that on its standard input."""
    done = subprocess.run(
        [*ATDATA, *arguments], env=environment(**extra), input=text, capture_output=True, text=True, timeout=120
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def log_in(account: LocalAccount, *more: str) -> Answer:
    answer = typed(f"{account.password}\n", "login", account.handle, "--password-stdin", *more)
    assert answer.code == 0, answer.err
    return answer


# ---- good days


def test_by_a_password_that_is_piped(run: Run, world: Path, alice: LocalAccount) -> None:
    answer = log_in(alice)
    assert answer.err == ""
    assert answer.out == (
        f"logged in as @{alice.handle}  {alice.did}\nat {alice.pds}, logged in by password, kept in {world}\n"
    )
    saved = world / "accounts" / f"{alice.did}.json"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert alice.password not in saved.read_text()
    shown = run("whoami")
    assert (shown.code, shown.out) == (0, answer.out.removeprefix("logged in as "))
    document = {"did": alice.did, "handle": alice.handle, "pds": alice.pds, "kind": "password", "place": "file"}
    assert run("whoami", "--json").document == document
    assert log_in(alice, "--json").document == document
    gone = run("logout")
    assert (gone.code, gone.out, gone.err) == (0, f"logged out of @{alice.handle}\n", "")
    assert not saved.exists()


def test_a_keyring_keeps_it_where_there_is_one(alice: LocalAccount, run: Run, world: Path, tmp_path: Path) -> None:
    modules = os.pathsep.join([str(Path(__file__).parents[1] / "atmosphere"), *sys.path])
    kept = {
        "PYTHONPATH": modules,
        "PYTHON_KEYRING_BACKEND": "own_keyring.OwnKeyring",
        "OWN_KEYRING": str(tmp_path / "keyring.json"),
        "ATDATA_CREDENTIALS": "",
    }
    answer = typed(f"{alice.password}\n", "login", alice.handle, "--password-stdin", **kept)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("logged in by password, kept in the keyring\n")
    assert "secrets" not in json.loads((world / "accounts" / f"{alice.did}.json").read_text())
    assert run("whoami", "--json", **kept).document["place"] == "keyring"
    (tmp_path / "keyring.mood").write_text("locked")
    locked = run("whoami", **kept)
    assert (locked.code, locked.out) == (1, "")
    assert "the keyring does not read the login (RuntimeError): unlock it" in locked.err
    (tmp_path / "keyring.mood").unlink()
    assert run("logout", **kept).code == 0
    assert json.loads((tmp_path / "keyring.json").read_text()) == {}


def test_by_a_password_that_is_typed_and_not_shown(
    terminal: Callable[..., Terminal], run: Run, alice: LocalAccount
) -> None:
    asked = terminal("login", f"@{alice.handle}", streams=("stdin", "stdout", "stderr"))
    asked.until(rb"App password of .* \(none: log in in the browser\): ")
    asked.say(alice.password.encode() + b"\n")
    answer = asked.finish()
    assert answer.code == 0, answer.out
    assert f"logged in as @{alice.handle}" in answer.out
    assert alice.password not in answer.out
    assert run("whoami").code == 0


def test_no_password_is_typed(terminal: Callable[..., Terminal], alice: LocalAccount) -> None:
    asked = terminal("login", alice.handle, streams=("stdin", "stdout", "stderr"))
    asked.until(rb"App password of .*: ")
    asked.say(b"\x04")  # Ctrl-D
    answer = asked.finish()
    assert answer.code == 1
    assert "atdata: error: no password was given" in answer.out


def test_the_handle_is_asked_for_where_somebody_is(
    terminal: Callable[..., Terminal], run: Run, alice: LocalAccount
) -> None:
    asked = terminal("login", streams=("stdin", "stdout", "stderr"))
    asked.until(rb"Handle: ")
    asked.say(alice.handle.encode() + b"\n")
    asked.until(rb"App password of .*: ")
    asked.say(alice.password.encode() + b"\n")
    assert asked.finish().code == 0
    nobody = run("login")
    assert (nobody.code, nobody.out) == (1, "")
    assert nobody.err == "atdata: error: whose login? Nobody is here to be asked: run atdata login HANDLE\n"


def test_in_the_browser(run: Run, alice: LocalAccount, browser: Callable[[LocalAccount], str], world: Path) -> None:
    answer = run("login", alice.handle, "--browser", BROWSER=browser(alice))
    assert answer.code == 0, answer.err
    assert "To log in, open this page in a browser" in answer.err
    assert answer.out == (
        f"logged in as @{alice.handle}  {alice.did}\nat {alice.pds}, logged in in the browser, kept in {world}\n"
    )
    assert run("whoami", "--json").document["kind"] == "oauth"
    assert run("logout").code == 0
    assert run("whoami").code == 1


def test_in_the_browser_of_another_machine(
    terminal: Callable[..., Terminal], alice: LocalAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "atmosphere"))
    from browser import Browser

    asked = terminal("login", alice.handle, "--browser", streams=("stdin", "stdout", "stderr"), COLUMNS="1000")
    asked.until(rb"paste the address")
    page = re.search(rb"http://localhost:\d+/oauth/authorize\S+", asked.shown)
    assert page is not None
    asked.say(b"http://127.0.0.1/callback?code=wrong\n")
    asked.until(rb"That is not it, it belongs to another login, or an earlier one\.")
    asked.say(Browser(page.group().decode()).log_in(alice).encode() + b"\n")
    answer = asked.finish()
    assert answer.code == 0, answer.out
    assert f"logged in as @{alice.handle}" in answer.out


def test_whoever_logs_in_at_a_server(
    run: Run, atproto: SharedNetwork, world: Path, browser: Callable[[LocalAccount], str]
) -> None:
    bob = atproto.make_account(1)
    answer = run("login", "--pds-url", bob.pds, "--json", BROWSER=browser(bob))
    assert answer.code == 0, answer.err
    assert answer.document["did"] == bob.did


@pytest.mark.slow
def test_several_accounts(run: Run, atproto: SharedNetwork, alice: LocalAccount) -> None:
    bob = atproto.make_account(1)
    for account in (alice, bob):
        log_in(account)
    shown = run("whoami")
    assert shown.out.startswith(f"@{bob.handle}")
    assert shown.out.endswith(f"also logged in: @{alice.handle}\n")
    switched = run("login", alice.handle, "--switch")
    assert (switched.code, switched.out.splitlines()[0]) == (0, f"logged in as @{alice.handle}  {alice.did}")
    assert run("whoami", "--json").document["did"] == alice.did
    assert run("whoami", bob.handle, "--json").document["did"] == bob.did
    assert run("whoami", ATDATA_HANDLE=bob.handle).out.startswith(f"@{bob.handle}")
    gone = run("logout", "--all", "--json").document["accounts"]
    assert {(each["did"], each["told"]) for each in gone} == {(alice.did, True), (bob.did, True)}


def test_the_environment_is_told_of(run: Run, alice: LocalAccount, world: Path) -> None:
    given = {"ATDATA_HANDLE": alice.handle, "ATDATA_APP_PASSWORD": alice.password}
    shown = run("whoami", **given)
    assert shown.out == (f"@{alice.handle}  {alice.did}\nat {alice.pds}, by ATDATA_HANDLE and ATDATA_APP_PASSWORD\n")
    assert run("whoami", "--json", **given).document["place"] == "environment"
    assert not world.exists()
    answer = typed(f"{alice.password}\n", "login", alice.handle, "--password-stdin", **given)
    assert answer.code == 0
    assert answer.err == (
        "atdata: ATDATA_HANDLE and ATDATA_APP_PASSWORD are set and come before this login: unset them to use it\n"
    )


# ---- bad days


def test_a_wrong_password(alice: LocalAccount) -> None:
    answer = typed("wrong-SECRET\n", "login", alice.handle, "--password-stdin")
    assert (answer.code, answer.out) == (1, "")
    assert f"the server does not know the account '{alice.handle}', or its password is another" in answer.err
    assert "SECRET" not in answer.err
    document = typed("wrong\n", "login", alice.handle, "--password-stdin", "--json").document
    assert document["error"]["type"] == "LoginError"
    nothing = typed("", "login", alice.handle, "--password-stdin")
    assert (nothing.code, nothing.err) == (1, "atdata: error: there is no password on standard input\n")


def test_a_handle_that_nobody_has(alice: LocalAccount) -> None:
    answer = typed("x\n", "login", "nobody.pds0.test", "--password-stdin")
    assert answer.code == 1
    assert "knows no handle nobody.pds0.test" in answer.err


def test_the_browser_of_somebody_else(
    run: Run, atproto: SharedNetwork, alice: LocalAccount, browser: Callable[[LocalAccount], str], world: Path
) -> None:
    mallory = atproto.make_account()
    answer = run("login", alice.handle, "--browser", BROWSER=browser(mallory))
    assert (answer.code, answer.out) == (1, "")
    assert f"the browser logged in {mallory.handle} instead of {alice.handle}" in answer.err
    assert run("whoami").code == 1


def test_nobody_is_logged_in(run: Run, world: Path) -> None:
    for command in ("whoami", "logout"):
        answer = run(command)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("atdata: error: nobody is logged in")
    named = run("logout", "carol.example.org")
    assert (named.code, named.out) == (1, "")
    assert "no login of 'carol.example.org' is saved" in named.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["password", "browser"])
def test_a_login_that_was_revoked(
    run: Run, alice: LocalAccount, browser: Callable[[LocalAccount], str], world: Path, kind: str
) -> None:
    if kind == "password":
        log_in(alice)
    else:
        assert run("login", alice.handle, "--browser", BROWSER=browser(alice)).code == 0
    saved = world / "accounts" / f"{alice.did}.json"
    before = saved.read_text()
    assert run("logout").code == 0  # from another machine, which had a copy
    saved.write_text(before)
    saved.chmod(0o600)
    if kind == "password":  # its short token lives on for some hours
        document = json.loads(before)
        document["secrets"]["access"] = document["secrets"]["access"][:-8] + "AAAAAAAA"
        saved.write_text(json.dumps(document))
    answer = run("whoami")
    assert (answer.code, answer.out) == (1, "")
    assert "is over, or was revoked: run atdata login again" in answer.err
    assert run("whoami", "--json").document["error"]["type"] == "LoginError"
    assert run("logout").code == 0


@pytest.mark.slow
def test_no_network(run: Run, alice: LocalAccount, world: Path) -> None:
    log_in(alice)
    saved = world / "accounts" / f"{alice.did}.json"
    document = json.loads(saved.read_text())
    saved.write_text(json.dumps({**document, "pds": "http://localhost:9"}))  # where nothing answers
    answer = run("whoami")
    assert (answer.code, answer.out) == (1, "")
    assert "atdata: error: the server cannot be reached" in answer.err
    assert "[http://localhost:9/" in answer.err
    gone = run("logout")
    assert (gone.code, gone.out) == (1, f"logged out of @{alice.handle}\n")
    assert f"the server could not be told, and takes the login of @{alice.handle} until it ends" in gone.err
    assert not saved.exists()
    offline = typed("x\n", "login", alice.handle, "--password-stdin", ATDATA_HANDLES_AT="http://localhost:9")
    assert offline.code == 1
    assert "localhost:9" in offline.err


def test_what_cannot_be_meant(run: Run, world: Path) -> None:
    for arguments, message in (
        (("login", "a.test", "--browser", "--switch"), "exclude each other"),
        (("login", "--switch"), "whose login? Give a handle too"),
        (("login", "--password-stdin"), "whose login? Give a handle too"),
        (("logout", "a.test", "--all"), "--all means every account"),
    ):
        answer = run(*arguments)
        assert (answer.code, answer.out) == (2, "")
        assert message in answer.err
    assert run("login", "a.test", "--switch").code == 1
    strange = run("login", "a.test", ATDATA_CREDENTIALS="vault")
    assert "ATDATA_CREDENTIALS is 'vault': say file or keyring" in strange.err


def test_ctrl_c_while_the_browser_is_waited_for(terminal: Callable[..., Terminal], alice: LocalAccount) -> None:
    waiting = terminal("login", alice.handle, "--browser", streams=("stdin", "stdout", "stderr"), COLUMNS="1000")
    waiting.until(rb"paste the address")
    page = re.search(rb"request_uri=\S+", waiting.shown)
    assert page is not None
    waiting.process.send_signal(signal.SIGINT)
    answer = waiting.finish()
    assert answer.code == 130
    assert "atdata: interrupted" in answer.out
    assert "Traceback" not in answer.out


def test_a_page_elsewhere_cannot_bring_a_login_of_its_own(
    terminal: Callable[..., Terminal], alice: LocalAccount, world: Path
) -> None:
    waiting = terminal("login", alice.handle, "--browser", streams=("stdin", "stdout", "stderr"), COLUMNS="1000")
    waiting.until(rb"paste the address")
    listening = [
        entry.split()[1]
        for entry in Path(f"/proc/{waiting.process.pid}/net/tcp").read_text().splitlines()[1:]
        if entry.split()[3] == "0A" and _holds(waiting.process.pid, entry.split()[9])
    ]
    assert [place.partition(":")[0] for place in listening] == ["0100007F"]  # 127.0.0.1, and nowhere else
    url = f"http://127.0.0.1:{int(listening[0].partition(':')[2], 16)}/callback"
    forged = {"code": "cod-forged", "state": "guessed", "iss": f"http://{urlsplit(alice.pds).netloc}"}
    assert httpx.get(url, params=forged, trust_env=False).status_code == 400
    waiting.process.send_signal(signal.SIGINT)
    assert waiting.finish().code == 130
    assert not (world / "accounts").exists()


def _holds(pid: int, inode: str) -> bool:
    """Whether a process has that socket open."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(file) == f"socket:[{inode}]":
                return True
        except OSError:
            continue
    return False
