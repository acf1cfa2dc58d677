"""The AT Protocol network that other tests lean on does what its docstrings say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import dns.exception
import dns.resolver
import pytest

from atdata.testing import LocalNetwork
from atdata.testing.network import LocalAccount, LocalNetworkError
from servers.atproto import SharedNetwork, shared
from servers.test_servers import PATH, fetch, runs, wait_for


def send(url: str, body: bytes, mime: str, token: str = "") -> tuple[int, dict]:
    headers = {"Content-Type": mime} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def post(url: str, body: object, token: str = "") -> tuple[int, dict]:
    return send(url, json.dumps(body).encode(), "application/json", token)


def log_in(account: LocalAccount) -> str:
    asked = {"identifier": account.handle, "password": account.password}
    status, told = post(f"{account.pds}/xrpc/com.atproto.server.createSession", asked)
    assert (status, told["did"]) == (200, account.did)
    return told["accessJwt"]


def write(account: LocalAccount, token: str, rkey: str) -> tuple[int, dict]:
    record = {"$type": "science.alt.dataset.test", "text": rkey}
    asked = {"repo": account.did, "collection": "science.alt.dataset.test", "rkey": rkey, "record": record}
    return post(f"{account.pds}/xrpc/com.atproto.repo.putRecord", asked, token)


def read(account: LocalAccount, rkey: str) -> int:
    query = f"repo={account.did}&collection=science.alt.dataset.test&rkey={rkey}"
    return fetch(f"{account.pds}/xrpc/com.atproto.repo.getRecord?{query}")[0]


def names(network: SharedNetwork | LocalNetwork) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    host, _, port = network.nameserver.partition(":")
    resolver.nameservers, resolver.port = [host], int(port)
    return resolver


def test_accounts_of_two_servers_are_in_one_directory(atproto: SharedNetwork) -> None:
    for number in (0, 1):
        account = atproto.make_account(number)
        assert account.pds == atproto.pds[number]
        document = json.loads(fetch(f"{atproto.directory}/{account.did}")[2])
        assert document["id"] == account.did
        assert document["alsoKnownAs"] == [f"at://{account.handle}"]
        assert document["service"][0]["serviceEndpoint"] == account.pds
        assert document["verificationMethod"][0]["type"] == "Multikey"
        assert write(account, log_in(account), "first")[0] == 200
        assert read(account, "first") == 200
    assert fetch(f"{atproto.directory}/did:plc:nobody")[0] == 404


def test_handles_are_names_of_the_name_server_and_of_each_pds(atproto: SharedNetwork) -> None:
    account = atproto.make_account(1)
    found = names(atproto).resolve(f"_atproto.{account.handle}", "TXT")
    assert [b"".join(record.strings).decode() for record in found] == [f"did={account.did}"]
    with pytest.raises(dns.resolver.NXDOMAIN):
        names(atproto).resolve("_atproto.nobody.pds0.test", "TXT")
    with pytest.raises(dns.resolver.NoAnswer):
        names(atproto).resolve(f"_atproto.{account.handle}", "A")
    for pds in atproto.pds:
        asked = f"{pds}/xrpc/com.atproto.identity.resolveHandle?handle={account.handle}"
        assert json.loads(fetch(asked)[2]) == {"did": account.did}


def test_a_password_is_not_shown(atproto: SharedNetwork) -> None:
    account = atproto.make_account()
    assert account.handle in repr(account)
    assert account.password not in repr(account)


def test_a_handle_that_cannot_be_says_why(atproto: SharedNetwork) -> None:
    with pytest.raises(LocalNetworkError, match=r"createAccount: 400 .*UnsupportedDomain"):
        atproto.make_account(handle="alice.example.org")


@pytest.mark.slow
def test_killed_and_resumed_with_the_same_accounts_and_records(own_atproto: LocalNetwork) -> None:
    alice = own_atproto.make_account(handle="alice.test")
    token = log_in(alice)
    assert write(alice, token, "kept")[0] == 200
    for end in (own_atproto.kill, own_atproto.stop):
        end()
        with pytest.raises(OSError, match="refused"):
            read(alice, "kept")
        own_atproto.resume()
        assert read(alice, "kept") == 200
        assert write(alice, token, "again")[0] == 200
        assert fetch(f"{own_atproto.directory}/{alice.did}")[0] == 200
        names(own_atproto).resolve("_atproto.alice.test", "TXT")


@pytest.mark.slow
def test_a_network_with_limits_in_a_folder_that_is_kept(tmp_path: Path) -> None:
    with LocalNetwork(folder=tmp_path, blob_limit=1000, rate_limits=True) as network:
        alice, ports = network.make_account(), network.pds
        _, headers, body = fetch(f"{alice.pds}/xrpc/com.atproto.server.describeServer")
        assert json.loads(body)["blobUploadLimit"] == 1000
        assert "RateLimit-Remaining" in headers
        upload = f"{alice.pds}/xrpc/com.atproto.repo.uploadBlob"
        token = log_in(alice)
        assert send(upload, bytes(1000), "application/x-tar", token)[0] == 200
        status, told = send(upload, bytes(1001), "application/x-tar", token)
        assert (status, told["error"]) == (413, "PayloadTooLarge")
    with LocalNetwork(folder=tmp_path) as again:
        assert again.pds == ports
        log_in(alice)


def test_without_its_programs_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LocalNetworkError, match=r"scripts/install-server\.sh atproto.*npm ci --ignore-scripts"):
        LocalNetwork(modules=tmp_path).start()


def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    with pytest.raises(LocalNetworkError, match=r"(?s)did not start: it ended with 1.*Cannot find package"):
        LocalNetwork(modules=tmp_path).start()


def test_a_start_that_takes_too_long_is_ended() -> None:
    network = LocalNetwork(deadline=0.01)
    with pytest.raises(LocalNetworkError, match=r"did not start in 0\.01 s"):
        network.start()
    network.close()


def test_a_network_has_a_pds() -> None:
    with pytest.raises(ValueError, match="at least one PDS, not 0"):
        LocalNetwork(pds=0)


STARTS_AND_WAITS = """
import json, os, sys, time
from atdata.testing import LocalNetwork
network = LocalNetwork().start()
child = os.fork()  # holds all open files of its parent, and outlives it
if child == 0:
    time.sleep(60)
    os._exit(0)
print(json.dumps([network.pid, child, str(network.folder)]), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_nothing_is_left_of_a_killed_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": PATH}
    )
    assert process.stdout is not None
    pid, child, folder = json.loads(process.stdout.readline())
    try:
        assert runs(pid)
        assert Path(folder).exists()
        process.kill()
        process.wait()
        assert wait_for(lambda: not runs(pid) and not Path(folder).exists(), 30)
        assert runs(child)
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


SHARES = """
import sys
from pathlib import Path
from servers.atproto import shared
for network in shared(Path(sys.argv[1])):
    print(network.directory, network.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_processes_share_one_network_until_the_last_has_ended(tmp_path: Path) -> None:
    sharers = [
        subprocess.Popen(
            [sys.executable, "-c", SHARES, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": PATH},
        )
        for _ in range(3)
    ]
    said = [sharer.stdout.readline().split() for sharer in sharers if sharer.stdout]
    folder = Path((tmp_path / "atproto.place").read_text())
    (directory, pid) = said[0]
    try:
        assert said == [[directory, pid]] * 3
        for sharer in sharers[:2]:
            sharer.kill()  # one of them may be whoever started it
            sharer.wait()
        assert fetch(f"{directory}/_health")[0] == 200
    finally:
        for sharer in sharers:
            sharer.communicate()
    assert wait_for(lambda: not folder.exists() and not runs(int(pid)), 30)
    again = shared(tmp_path)  # the folder has the record of a network that is no more
    assert fetch(f"{next(again).directory}/_health")[0] == 200
    again.close()
