"""The servers that other tests lean on do what their docstrings say."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError
from obstore.store import HTTPStore, S3Store

from servers.rgw import RGW, S3Server, ServerError, _launch, _new_folder, shared
from servers.web import WebServer

TESTS = Path(__file__).resolve().parents[1]
PATH = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])


def opened(server: S3Server, bucket: str, **options: object) -> S3Store:
    return S3Store(bucket, **{**server.obstore_options, **options})


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.02)
    return what()


# ---- the S3 server -------------------------------------------------------------------------------------------------


def test_what_is_put_is_got_listed_and_removed(rgw: S3Server, bucket: str) -> None:
    keys = ["a b/c%41+d", "é/☃", "x" * 200, "..", "a//b", "a/../b"]
    for key in keys:
        assert rgw.request("PUT", f"/{bucket}/{key}", body=key.encode()).status == 200
    assert sorted(rgw.keys(bucket)) == sorted(keys)
    store = opened(rgw, bucket)
    assert rgw.request("GET", f"/{bucket}/é/☃").body == "é/☃".encode()
    store.put("plain", b"1")
    assert store.get("plain").bytes() == b"1"


def test_a_range_is_206_and_past_the_end_416(rgw: S3Server, bucket: str) -> None:
    rgw.request("PUT", f"/{bucket}/k", body=bytes(range(100)))
    reply = rgw.request("GET", f"/{bucket}/k", headers={"Range": "bytes=10-19"})
    assert (reply.status, reply.body) == (206, bytes(range(10, 20)))
    assert reply.headers["content-range"] == "bytes 10-19/100"
    assert rgw.request("GET", f"/{bucket}/k", headers={"Range": "bytes=100-"}).status == 416


def test_bad_keys_are_refused(rgw: S3Server, bucket: str) -> None:
    for stranger in (rgw.as_user(rgw.access_key, "wrong"), rgw.as_user("NOBODY", rgw.secret_key)):
        assert stranger.request("GET", f"/{bucket}").status == 403
        with pytest.raises(PermissionDeniedError):
            opened(stranger, bucket).put("k", b"1")
    assert rgw.request("GET", f"/{bucket}/k", signed=False).status == 403


def test_a_presigned_url_is_good_until_it_expires(rgw: S3Server, bucket: str) -> None:
    rgw.request("PUT", f"/{bucket}/k", body=b"content")
    assert fetch(rgw.presign("GET", f"/{bucket}/k"))[::2] == (200, b"content")
    assert fetch(rgw.presign("GET", f"/{bucket}/k", expires=60, at=time.time() - 120))[0] == 403
    good = obstore.sign(opened(rgw, bucket), "GET", "k", timedelta(seconds=60))
    assert fetch(good)[::2] == (200, b"content")
    assert fetch(good.replace("/k?", "/other?"))[0] == 403
    short = obstore.sign(opened(rgw, bucket), "GET", "k", timedelta(seconds=1))
    time.sleep(2.1)
    assert fetch(short)[0] == 403


def test_creating_has_one_winner(rgw: S3Server, bucket: str) -> None:
    store = opened(rgw, bucket)
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        try:
            store.put("k", str(number).encode(), mode="create")
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert store.get("k").bytes() == str(won.index(True)).encode()


def test_unfinished_uploads_are_seen_and_removed_with_the_bucket(rgw: S3Server) -> None:
    name = rgw.make_bucket()
    begun = rgw.request("POST", f"/{name}/big file", {"uploads": ""})
    assert begun.status == 200
    assert [key for key, _ in rgw.uploads(name)] == ["big file"]
    rgw.remove_bucket(name)
    assert rgw.request("HEAD", f"/{name}").status == 404
    rgw.remove_bucket(name)


def test_killed_and_resumed_with_the_same_data(own_rgw: RGW) -> None:
    name = own_rgw.make_bucket()
    own_rgw.request("PUT", f"/{name}/k", body=b"kept")
    for end in (own_rgw.kill, own_rgw.stop):
        end()
        with pytest.raises(ConnectionRefusedError):
            own_rgw.request("GET", f"/{name}/k")
        own_rgw.resume()
        assert own_rgw.request("GET", f"/{name}/k").body == b"kept"
        assert opened(own_rgw.server, name).get("k").bytes() == b"kept"
        own_rgw.request("PUT", f"/{name}/again", body=b"1")
        own_rgw.make_bucket()


@pytest.mark.slow
def test_a_server_on_disk_and_one_in_memory_at_once(own_rgw: RGW) -> None:
    with RGW("bluestore") as other:
        assert other.endpoint != own_rgw.endpoint
        name = other.make_bucket()
        opened(other.server, name).put("k", b"1" * 20_000_000)
        other.kill()
        other.resume()
        assert other.request("HEAD", f"/{name}/k").headers["content-length"] == "20000000"
        assert own_rgw.request("HEAD", f"/{name}").status in (403, 404)
        folder, pids = other.folder, other.pids()
    assert not folder.exists()
    assert not any(map(runs, pids.values()))


def test_a_start_that_fails_shows_the_logs() -> None:
    folder = _new_folder()
    with open(folder / "hold", "a+b") as hold:
        fcntl.lockf(hold, fcntl.LOCK_SH)
        with pytest.raises(ServerError, match=r"(?s)did not start.*--mkfs ended with.*ceph-osd\.out\.log"):
            _launch(folder, "memstore\nosd_data = /dev/null/none")
    assert not folder.exists()


def test_without_its_programs_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("servers.rgw.ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match=r"scripts/install-server\.sh rgw"):
        RGW().start()


STARTS_AND_WAITS = """
import json, os, sys, time
from atdata.testing import FaultProxy
from servers.rgw import RGW
server = RGW().start()
proxy = FaultProxy(server.endpoint).start()
child = os.fork()  # holds all open files of its parent, and outlives it
if child == 0:
    time.sleep(60)
    os._exit(0)
pids = {**server.pids(), "proxy": proxy._process.pid}
print(json.dumps([str(server.folder), pids, child]), flush=True)
time.sleep(60)
"""


def test_nothing_is_left_of_a_killed_test_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": PATH}
    )
    assert process.stdout is not None
    folder, pids, child = json.loads(process.stdout.readline())
    try:
        assert set(pids) == {"ceph-mon", "ceph-osd", "radosgw", "supervisor", "proxy"}
        assert all(map(runs, pids.values()))
        process.kill()
        process.wait()
        assert wait_for(lambda: not any(map(runs, pids.values())) and not Path(folder).exists())
        assert runs(child)
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_nothing_is_left_of_a_killed_supervisor() -> None:
    with RGW() as server:
        pids = server.pids()
        os.kill(pids["supervisor"], signal.SIGKILL)
        assert wait_for(lambda: not any(map(runs, pids.values())))
        with pytest.raises((ServerError, OSError)):
            server.resume()
    assert not server.folder.exists()


SHARES = """
import sys
from pathlib import Path
from servers.rgw import shared
for server in shared(Path(sys.argv[1])):
    print(server.endpoint, flush=True)
    sys.stdin.read()
"""


def test_processes_share_one_server_until_the_last_has_ended(tmp_path: Path) -> None:
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
    said = [sharer.stdout.readline().strip() for sharer in sharers if sharer.stdout]
    folder = Path((tmp_path / "rgw.place").read_text())
    try:
        assert len(set(said)) == 1
        for sharer in sharers[:2]:
            sharer.kill()  # one of them may be whoever started it
            sharer.wait()
        time.sleep(0.3)
        assert fetch(said[0])[0] == 200
    finally:
        for sharer in sharers:
            sharer.communicate()
    assert wait_for(lambda: not folder.exists())
    again = shared(tmp_path)  # the folder has the record of a server that is no more
    assert fetch(next(again).endpoint)[0] == 200
    again.close()


# ---- the web server ------------------------------------------------------------------------------------------------


def test_serves_files_with_ranges_and_tags(web: WebServer) -> None:
    body = os.urandom(100_000)
    (web.folder / "a b").mkdir()
    (web.folder / "a b" / "é.tar").write_bytes(body)
    url = web.url("a b/é.tar")
    status, headers, got = fetch(url)
    assert (status, got, headers["Content-Length"], headers["Accept-Ranges"]) == (200, body, "100000", "bytes")
    assert fetch(url, Range="bytes=10-19")[::2] == (206, body[10:20])
    assert fetch(url, Range="bytes=99990-200000")[::2] == (206, body[99990:])
    assert fetch(url, Range="bytes=-5")[::2] == (206, body[-5:])
    assert fetch(url, Range="bytes=5-", If_Range='"other"')[::2] == (200, body)
    assert fetch(url, Range="bytes=100000-")[0] == 416
    assert fetch(url, If_None_Match=headers["ETag"])[0] == 304
    assert fetch(url, If_Match='"other"')[0] == 412
    (web.folder / "a b" / "é.tar").write_bytes(body + b"1")
    assert fetch(url)[1]["ETag"] != headers["ETag"]
    head = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(head, timeout=5) as answer:
        assert (answer.headers["Content-Length"], answer.read()) == ("100001", b"")
    assert web.counts() == {"GET": 9, "HEAD": 1}
    assert (web.requests[1].path, web.requests[1].range) == ("/a b/é.tar", "bytes=10-19")
    assert fetch(f"{web.endpoint}/../../etc/passwd")[0] == 404


def test_serves_as_badly_as_told(web: WebServer) -> None:
    (web.folder / "a").write_bytes(b"content")
    web.ranges = False
    status, headers, got = fetch(web.url("a"), Range="bytes=1-2")
    assert (status, got, "Accept-Ranges" in headers) == (200, b"content", False)
    web.lengths = False
    _, headers, got = fetch(web.url("a"))
    assert (got, "Content-Length" in headers) == (b"content", False)
    web.wrong("a", b"another")
    assert fetch(web.url("a"))[2] == b"another"
    web.normal()
    assert fetch(web.url("a"), Range="bytes=1-2")[::2] == (206, b"on")
    web.answer("secret", 403)
    assert fetch(web.url("secret"))[0] == 403
    assert fetch(web.url("none"))[0] == 404
    web.redirect("old", web.url("a"))
    assert fetch(web.url("old"))[2] == b"content"
    assert [request.status for request in web.requests[-2:]] == [302, 200]


def test_obstore_reads_from_it(web: WebServer) -> None:
    body = os.urandom(1 << 20)
    (web.folder / "a").write_bytes(body)
    store = HTTPStore(web.endpoint, client_options={"allow_http": True})
    assert store.get("a").bytes() == body
    assert bytes(store.get_range("a", start=5, length=10)) == body[5:15]
