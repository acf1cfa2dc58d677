"""A real S3 server for tests: Ceph's RADOS gateway on free loopback ports, with a private data folder.

In a test, take a fixture (`servers.fixtures`, known to all tests):

    def test_it(rgw, bucket):                      # one server for the whole test run, a fresh bucket for this test
        store = obstore.store.S3Store(bucket, **rgw.obstore_options)
        atdata.S3DataStore(rgw.credentials, bucket=bucket)

    def test_bad_day(own_rgw):                     # a server of this test's own, which it may kill
        name = own_rgw.make_bucket()
        own_rgw.kill()                             # SIGKILL: open connections break, new ones are refused
        own_rgw.resume()                           # the same port, keys and data

    def test_network(rgw, bucket, fault_proxy):    # see atdata.testing.FaultProxy
        slow = rgw.through(fault_proxy)            # the same server by the proxy's address
        fault_proxy.set(latency=0.03)

Elsewhere (a benchmark, a shell):

    with RGW() as s3: ...                          # 1.5 s; RGW("bluestore") keeps gigabytes: on disk

The programs are the system's own, or those that scripts/install-server.sh rgw unpacks into .tools/rgw.

How nothing is left running: the daemons are children of a small supervisor (this file run as a script) and die
with it (PR_SET_PDEATHSIG). Whoever uses the server holds a shared lock on a file in its folder; the kernel frees it
when that process ends, in whatever way, and when the supervisor gets that lock for itself, nobody is left: it kills
the daemons and removes the folder. The lock is a POSIX one: children by fork do not hold it.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import hashlib
import hmac
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool")
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0  # on a machine with nothing else to do it takes 3


class ServerError(RuntimeError):
    """The server cannot be had; the text says why."""


class HasEndpoint(Protocol):
    @property
    def endpoint(self) -> str: ...


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


@dataclass(frozen=True)
class S3Server:
    """Where a server is and who may use it; needs nothing but the standard library to speak to it."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    @property
    def credentials(self) -> dict[str, str]:
        """As `atdata.S3DataStore` takes them, and as environment variables."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT": self.endpoint,
        }

    @property
    def obstore_options(self) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "region": self.region,
            "client_options": {"allow_http": True},
        }

    def through(self, proxy: HasEndpoint) -> S3Server:
        """The same server by the address of a proxy before it."""
        return S3Server(proxy.endpoint, self.access_key, self.secret_key, self.region)

    def as_user(self, access_key: str, secret_key: str) -> S3Server:
        """The same server for somebody with other keys."""
        return S3Server(self.endpoint, access_key, secret_key, self.region)

    def assume_role(self) -> dict[str, str]:
        """Credentials of a role that may do everything: keys for 15 minutes, which are good with their token only.

        The server has to have `ROLES`.
        """
        anybody = {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["sts:AssumeRole"]}
        everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": "arn:aws:s3:::*"}
        role = {"RoleName": f"role-{uuid.uuid4().hex[:8]}"}
        named = {"PolicyName": "everything", "PolicyDocument": json.dumps(_policy(everything))}
        asked = {"RoleArn": f"arn:aws:iam:::role/{role['RoleName']}", "RoleSessionName": "test"}
        trust = {"Path": "/", "AssumeRolePolicyDocument": json.dumps(_policy(anybody))}
        self._expect((200,), "POST", "/", {"Action": "CreateRole", **role, **trust})
        self._expect((200,), "POST", "/", {"Action": "PutRolePolicy", **role, **named})
        reply = self._expect((200,), "POST", "/", {"Action": "AssumeRole", "DurationSeconds": "900", **asked})
        told = {element.tag.rpartition("}")[2]: element.text or "" for element in ET.fromstring(reply.body).iter()}
        return {
            **self.credentials,
            "AWS_ACCESS_KEY_ID": told["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": told["SecretAccessKey"],
            "AWS_SESSION_TOKEN": told["SessionToken"],
        }

    def make_bucket(self, name: str | None = None) -> str:
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        self._expect((200,), "PUT", f"/{name}")
        return name

    def remove_bucket(self, name: str) -> None:
        """With all that is in it, unfinished uploads too; nothing where it does not exist."""
        if self.request("HEAD", f"/{name}").status == 404:
            return
        for key, upload in self.uploads(name):
            self._expect((204, 404), "DELETE", f"/{name}/{key}", {"uploadId": upload})
        while keys := self.keys(name, limit=1000):
            listed = ET.Element("Delete")
            ET.SubElement(listed, "Quiet").text = "true"
            for key in keys:
                ET.SubElement(ET.SubElement(listed, "Object"), "Key").text = key
            body = ET.tostring(listed)
            md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            self._expect((200,), "POST", f"/{name}", {"delete": ""}, headers={"Content-MD5": md5}, body=body)
        self._expect((204,), "DELETE", f"/{name}")

    def keys(self, bucket: str, prefix: str = "", limit: int = 1000) -> list[str]:
        """The first keys, in order, at most 1000."""
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(limit)}
        listing = ET.fromstring(self._expect((200,), "GET", f"/{bucket}", query).body)
        return [element.text or "" for element in listing.iterfind("{*}Contents/{*}Key")]

    def uploads(self, bucket: str) -> list[tuple[str, str]]:
        """Multipart uploads begun and neither completed nor aborted: (key, upload id). They are billed."""
        listing = ET.fromstring(self._expect((200,), "GET", f"/{bucket}", {"uploads": ""}).body)
        return [
            (upload.findtext("{*}Key") or "", upload.findtext("{*}UploadId") or "")
            for upload in listing.iterfind("{*}Upload")
        ]

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        signed: bool = True,
        timeout: float = 30.0,
    ) -> Reply:
        """One request by one connection, without retries. `path` is not percent-encoded: /bucket/key."""
        address = urllib.parse.urlsplit(self.endpoint)
        sent = {"host": address.netloc, **{name.lower(): value for name, value in (headers or {}).items()}}
        target = urllib.parse.quote(path, safe="/-_.~")
        encoded = _query(query or {})
        if signed:
            sent["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
            sent["x-amz-date"] = _stamp(time.time())
            names, signature = self._sign(method, target, encoded, sent, sent["x-amz-content-sha256"])
            scope = self._scope(sent["x-amz-date"])
            sent["authorization"] = (
                f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
            )
        connection = http.client.HTTPConnection(address.netloc, timeout=timeout)
        try:
            connection.request(method, target + (f"?{encoded}" if encoded else ""), body or None, sent)
            answer = connection.getresponse()
            return Reply(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def presign(
        self, method: str, path: str, query: Mapping[str, str] | None = None, *, expires: int = 300, at: float = 0.0
    ) -> str:
        """A URL that needs no keys, for so many seconds from `at` (now, where it is 0)."""
        address = urllib.parse.urlsplit(self.endpoint)
        stamp = _stamp(at or time.time())
        target = urllib.parse.quote(path, safe="/-_.~")
        encoded = _query(
            {
                **(query or {}),
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": f"{self.access_key}/{self._scope(stamp)}",
                "X-Amz-Date": stamp,
                "X-Amz-Expires": str(expires),
                "X-Amz-SignedHeaders": "host",
            }
        )
        sent = {"host": address.netloc, "x-amz-date": stamp}
        _, signature = self._sign(method, target, encoded, sent, "UNSIGNED-PAYLOAD", only="host")
        return f"{self.endpoint}{target}?{encoded}&X-Amz-Signature={signature}"

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self.region}/s3/aws4_request"

    def _sign(
        self, method: str, target: str, query: str, headers: Mapping[str, str], payload: str, only: str = ""
    ) -> tuple[str, str]:
        names = sorted([only] if only else headers)
        listed = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
        canonical = "\n".join([method, target, query, listed, ";".join(names), payload])
        stamp = headers["x-amz-date"]
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, self._scope(stamp), digest])
        key = f"AWS4{self.secret_key}".encode()
        for step in (stamp[:8], self.region, "s3", "aws4_request"):
            key = hmac.digest(key, step.encode(), "sha256")
        return ";".join(names), hmac.digest(key, text.encode(), "sha256").hex()

    def _expect(
        self,
        statuses: tuple[int, ...],
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        reply = self.request(method, path, query, headers=headers, body=body)
        if reply.status not in statuses:
            raise ServerError(f"{method} {self.endpoint}{path} {query or ''}: {reply.status} {reply.body[:500]!r}")
        return reply


def _policy(statement: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [statement]}


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")


def _query(query: Mapping[str, str]) -> str:
    quoted = [(urllib.parse.quote(n, safe="-_.~"), urllib.parse.quote(v, safe="-_.~")) for n, v in query.items()]
    return "&".join(f"{name}={value}" for name, value in sorted(quoted))


# ---- the server of one's own, and the one shared by a test run -----------------------------------------------------


class RGW:
    """A gateway of one's own; all of `S3Server` too. Use as a context manager, or `start()` and `close()`.

    `settings` are lines for the gateway's section of Ceph's configuration, such as `BY_HOST` and `ROLES`.
    """

    def __init__(self, storage: Literal["memstore", "bluestore"] = "memstore", settings: str = "") -> None:
        self._storage = storage
        self._settings = settings
        self._server: S3Server | None = None
        self._folder: Path | None = None
        self._hold: IO[bytes] | None = None
        self._supervisor = 0

    def start(self) -> Self:
        from servers import sharing

        self._folder = _new_folder()
        try:
            self._hold = sharing.join(self._folder)
            self._supervisor = _launch(self._folder, self._storage, self._settings)
            self._server = _described(self._folder)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Ends the daemons and removes the data."""
        if self._hold is not None:
            self._hold.close()
            self._hold = None
        if self._supervisor:
            os.waitpid(self._supervisor, 0)
            self._supervisor = 0
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """The gateway is told to end (SIGTERM), and has 2 s for it. `resume` starts it again."""
        self._command("stop")

    def kill(self) -> None:
        """The gateway ends at once (SIGKILL). What it had stored stays, as it does in a real cluster."""
        self._command("kill")

    def resume(self) -> None:
        """The gateway runs again, on the same port, over the same data."""
        self._command("resume")

    def pids(self) -> dict[str, int]:
        """The daemons' process ids, and the supervisor's."""
        return {**json.loads(self._command("pids")), "supervisor": self._supervisor}

    @property
    def folder(self) -> Path:
        """Of its data and logs."""
        assert self._folder is not None
        return self._folder

    @property
    def server(self) -> S3Server:
        assert self._server is not None, "not started"
        return self._server

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.server, name)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _command(self, word: str) -> str:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(START_SECONDS + 10)
            control.connect(str(self.folder / "control"))
            control.sendall(word.encode() + b"\n")
            answer = b""
            while piece := control.recv(65536):
                answer += piece
        word_back, _, rest = answer.decode().partition(" ")
        if word_back != "ok":
            raise ServerError(f"{word}: {rest or 'the supervisor is gone'}\n{_log_tail(self.folder)}")
        return rest


def shared(meeting: Path) -> Iterator[S3Server]:
    """One server for all the processes that name the same folder, from the first of them to the last."""
    from servers import sharing  # not there where this file runs as a script

    with sharing.shared(meeting, "rgw", _new_folder, lambda folder: _launch(folder, "memstore")) as folder:
        yield _described(folder)


def _new_folder() -> Path:
    # Short: sockets in it have names of at most 107 characters.
    folder = tempfile.mkdtemp(prefix="rgw-", dir="/tmp" if os.access("/tmp", os.W_OK) else None)
    return Path(folder)


def _described(folder: Path) -> S3Server:
    return S3Server(**json.loads((folder / "server.json").read_text()))


def _launch(folder: Path, storage: str, settings: str = "") -> int:
    """Start a supervisor and wait for its server; its process id."""
    if sys.platform != "linux":
        raise ServerError("the S3 server of these tests (Ceph's RADOS gateway) runs on Linux only")
    _programs()
    # Not subprocess.Popen: it complains about a child that outlives it, as the shared one may.
    log = os.open(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        with open(os.devnull, "rb") as nothing:
            actions = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), 0)]
            actions += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
            supervisor = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", __file__, str(folder), storage, settings],
                os.environ,
                file_actions=actions,
                setsid=True,  # Ctrl-C in a terminal is for the tests; the supervisor goes when they are gone
            )
    finally:
        os.close(log)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not (folder / "server.json").exists():
            ended = os.waitpid(supervisor, os.WNOHANG)[0]
            if ended or time.monotonic() > deadline:
                if ended:
                    supervisor = 0
                what = "did not start" if ended else f"did not start in {START_SECONDS:.0f} s"
                raise ServerError(f"the S3 server {what}; the end of its logs:\n{_log_tail(folder)}")
            time.sleep(0.02)
    except BaseException:
        if supervisor:
            os.kill(supervisor, signal.SIGKILL)
            os.waitpid(supervisor, 0)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return supervisor


def _log_tail(folder: Path, lines: int = 15) -> str:
    logs = [folder / "supervisor.log", *sorted((folder / "log").glob("*.log"))]
    parts = []
    for log in logs:
        if log.name == "cluster.log":
            continue  # what the monitor's own log says too
        try:
            tail = log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            continue
        if tail:
            parts += [f"--- {log}", *(line[:300] for line in tail)]
    return "\n".join(parts)


def _programs() -> dict[str, str]:
    """Where each program is."""
    unpacked = ROOT / ".tools" / "rgw"
    found = {name: str(unpacked / "usr/bin" / name) for name in PROGRAMS if (unpacked / ".recipe").exists()}
    found = found or {name: place for name in PROGRAMS if (place := shutil.which(name))}
    if missing := [name for name in PROGRAMS if name not in found]:
        raise ServerError(
            f"the S3 server of these tests (Ceph's RADOS gateway) is not here: no {', '.join(missing)}. "
            "Run scripts/install-server.sh rgw (as make test does), or install your system's packages of it."
        )
    return found


# ---- the supervisor: runs in a process of its own, with the standard library only -----------------------------------

SETTINGS = """
[global]
fsid = {fsid}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
mon_host = v2:127.0.0.1:{mon_port}
# Without these, each message between the daemons would be encrypted.
ms_mon_client_mode = crc
ms_client_mode = crc
ms_mon_service_mode = crc
ms_mon_cluster_mode = crc
ms_cluster_mode = crc
ms_service_mode = crc
mon_cluster_log_file = {folder}/log/cluster.log
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
# One monitor has nobody to wait for; the default makes each of the 30 steps of a start last a second.
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_osd_min_up_ratio = 0
osd_pool_default_pg_autoscale_mode = off
osd_op_num_shards = 2
osd_scrub_begin_hour = 0
osd_scrub_end_hour = 0
mon_max_pg_per_osd = 2000
# A killed gateway stays registered as a listener for so long, and each change of a bucket waits for it to answer.
osd_client_watch_timeout = 1
osd_default_notify_timeout = 1
client_notify_timeout = 2
mon_data = {folder}/mon
osd_data = {folder}/osd
osd_objectstore = {storage}
bluestore_block_size = 21474836480
memstore_device_bytes = 8589934592
{libraries}
run_dir = {folder}/run
admin_socket = {folder}/run/$name.$pid.asok
log_file = {folder}/log/$name.log
crash_dir = {folder}/log
# The disk of a developer may be nearly full.
mon_data_avail_crit = 1
mon_data_avail_warn = 2
osd_memory_target = 939524096
osd_memory_cache_min = 67108864
debug_rgw = 0/0
debug_ms = 0/0
[client.rgw]
# tcp_nodelay: without it, 22 small reads a second.
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_data = {folder}/rgw
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
rgw_enable_ops_log = false
rgw_num_rados_handles = 1
# Deleted data is freed in seconds, not hours: it is in memory.
rgw_gc_obj_min_wait = 2
rgw_gc_processor_period = 2
rgw_gc_processor_max_time = 2
rgw_gc_max_objs = 4
rgw_lc_debug_interval = 0
{settings}
"""

# What comes before this domain in the host of a request is the bucket: `127`, in a host that any machine finds.
BY_HOST = "rgw_dns_name = 0.0.1"
# Roles, and keys that are good for a while. (With them, the server does not say any more what is wrong with keys.)
ROLES = "rgw_s3_auth_use_sts = true\nrgw_sts_key = 0123456789abcdef"

# Speaks to the monitor by the C library, in a process that finds it: the `ceph` command would need Ceph's own
# bindings for one certain Python.
MONITOR_COMMANDS = r"""
import ctypes, json, sys, time
rados = ctypes.CDLL("librados.so.2")
cluster = ctypes.c_void_p()
def check(code, what):
    if code < 0:
        sys.exit(f"{what}: error {code}")
def run(**command):
    texts = (ctypes.c_char_p * 1)(json.dumps(command).encode())
    out, status = ctypes.c_char_p(), ctypes.c_char_p()
    out_size, status_size = ctypes.c_size_t(), ctypes.c_size_t()
    code = rados.rados_mon_command(cluster, texts, ctypes.c_size_t(1), None, ctypes.c_size_t(0),
        ctypes.byref(out), ctypes.byref(out_size), ctypes.byref(status), ctypes.byref(status_size))
    check(code, f"{command['prefix']}: {(status.value or b'').decode()}")
    return ctypes.string_at(out, out_size.value).decode()
check(rados.rados_create2(ctypes.byref(cluster), b"ceph", b"client.admin", ctypes.c_uint64(0)), "rados_create2")
check(rados.rados_conf_read_file(cluster, sys.argv[1].encode()), "reading the settings")
check(rados.rados_connect(cluster), "reaching the monitor")
print("connected", flush=True)
for line in sys.stdin:
    if line.startswith("new "):
        run(prefix="osd new", uuid=line.split()[1])
        run(prefix="osd crush add-bucket", name="default", type="root")
    elif line.startswith("up"):
        while json.loads(run(prefix="osd stat", format="json"))["num_up_osds"] < 1:
            time.sleep(0.02)
    print("done", flush=True)
rados.rados_shutdown(cluster)
"""


class _Supervisor:
    def __init__(self, folder: Path, storage: str, settings: str) -> None:
        self.folder = folder
        self.storage = storage
        self.settings = settings
        self.programs = _programs()
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.hold = open(folder / "hold", "a+b")  # noqa: SIM115
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CEPH_", "PYTHON")) and name not in ("TCMALLOC_SAMPLE_PARAMETER",)
        }
        self.environment["CEPH_CONF"] = str(folder / "ceph.conf")
        libraries = ""
        root = Path(self.programs["radosgw"]).parents[2]
        if root != Path("/"):
            places = [lib for part in ("usr/lib", "lib") for lib in sorted((root / part).glob("*-linux-gnu*"))]
            paths = [str(path) for lib in places for path in (lib, lib / "ceph") if path.is_dir()]
            self.environment["LD_LIBRARY_PATH"] = ":".join(paths)
            for lib in places:
                if (lib / "rados-classes").is_dir():
                    libraries = f"osd_class_dir = {lib}/rados-classes\nplugin_dir = {lib}/ceph\n"
                    libraries += f"erasure_code_dir = {lib}/ceph/erasure-code"
        self.libraries = libraries
        self.port = 0

    def main(self) -> int:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        control = socket.socket(socket.AF_UNIX)
        control.bind(str(self.folder / "control"))
        control.listen(8)
        control.settimeout(0.1)
        try:
            server = self.first_start()
            ready = self.folder / "server.json.new"
            ready.write_text(json.dumps(server))
            ready.rename(self.folder / "server.json")
            while not self.alone():
                try:
                    asked = control.accept()[0]
                except TimeoutError:
                    continue
                with asked:
                    asked.settimeout(5)
                    try:
                        self.obey(asked)
                    except OSError:
                        print("control: whoever asked is gone", flush=True)
        except _NobodyLeftError:
            pass
        except _FailedError as error:
            print(error, flush=True)
            self.end()
            return 1
        finally:
            self.end()
        shutil.rmtree(self.folder, ignore_errors=True)
        return 0

    def obey(self, asked: socket.socket) -> None:
        word = asked.recv(100).decode().strip()
        answer = "ok"
        try:
            if word == "kill":
                self.end("radosgw")
            elif word == "stop":
                gateway = self.daemons.get("radosgw")
                if gateway is not None:
                    gateway.terminate()
                    try:
                        gateway.wait(2)
                    except subprocess.TimeoutExpired:
                        print("radosgw: not ended in 2 s, killed", flush=True)
                self.end("radosgw")
            elif word == "resume":
                if "radosgw" not in self.daemons:
                    self.start_gateway()
            elif word == "pids":
                answer = "ok " + json.dumps({name: daemon.pid for name, daemon in self.daemons.items()})
            else:
                answer = f"error there is no command {word}"
        except _FailedError as error:
            answer = f"error {error}"
        asked.sendall(answer.encode())

    def alone(self) -> bool:
        """Nobody holds on to this server any more."""
        try:
            fcntl.lockf(self.hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def end(self, *names: str) -> None:
        """Kill these daemons, or all; the data of those that are to go on is safe in the others."""
        for name in names or list(self.daemons):
            if daemon := self.daemons.pop(name, None):
                daemon.kill()
                daemon.wait()

    # -- starting

    def first_start(self) -> dict[str, str]:
        for attempt in range(5):
            try:
                return self.start()
            except _FailedError as error:
                # Somebody may take a port between our finding it free and the daemon's opening it.
                if attempt == 4 or "address already in use" not in _log_tail(self.folder).lower():
                    raise
                print(f"{error}; again with other ports", flush=True)
                self.end()
                for name in ("mon", "osd", "rgw", "run", "log"):
                    shutil.rmtree(self.folder / name, ignore_errors=True)
        raise AssertionError

    def start(self) -> dict[str, str]:
        folder, began = self.folder, time.monotonic()

        def lap(what: str) -> None:
            print(f"{time.monotonic() - began:6.2f} s  {what}", flush=True)

        for name in ("mon", "osd", "rgw", "run", "log"):
            (folder / name).mkdir()
        fsid, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.port, mon_port = _free_ports(2)
        settings = SETTINGS.format(
            fsid=fsid,
            folder=folder,
            mon_port=mon_port,
            port=self.port,
            storage=self.storage,
            settings=self.settings,
            libraries=self.libraries,
        )
        (folder / "ceph.conf").write_text(settings)
        monmap = str(folder / "monmap")
        self.run(
            "monmaptool", "--create", "--clobber", "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", "--fsid", fsid, monmap
        )
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self.spawn("ceph-mon", "-i", "a", "-f")
        lap("monitor runs")
        monitor = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", MONITOR_COMMANDS, str(folder / "ceph.conf")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            preexec_fn=_die_with_parent,
        )
        self.daemons["monitor commands"] = monitor
        self.answer(monitor, "", "connected")
        lap("monitor answers")
        self.answer(monitor, f"new {osd_id}", "done")
        lap("storage is known")
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        self.spawn("ceph-osd", "-i", "0", "-f")
        lap("storage runs")
        self.answer(monitor, "up", "done")
        self.end("monitor commands")
        lap("storage is up")
        access, secret = "".join(random.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=20)), uuid.uuid4().hex
        user = ("--uid=test", "--display-name=test", "--caps=roles=*", f"--access-key={access}", f"--secret={secret}")
        self.run("radosgw-admin", "--name", "client.rgw", "user", "create", *user)
        lap("user is made")
        self.start_gateway()
        lap("gateway answers")
        return {"endpoint": f"http://127.0.0.1:{self.port}", "access_key": access, "secret_key": secret}

    def start_gateway(self) -> None:
        gateway = self.spawn("radosgw", "--name", "client.rgw", "-f")
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/")
                connection.getresponse().read()
                connection.close()
                return
            except (OSError, http.client.HTTPException):
                self.watch(gateway, "radosgw")
                time.sleep(0.02)

    def spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        daemon = subprocess.Popen(
            [self.programs[program], *arguments],
            stdin=subprocess.DEVNULL,
            env=self.environment,
            cwd=self.folder,
            preexec_fn=_die_with_parent,
        )
        self.daemons[program] = daemon
        return daemon

    def run(self, program: str, *arguments: str) -> None:
        with open(self.folder / "log" / f"{program}.out.log", "ab") as out:
            tool = subprocess.Popen(
                [self.programs[program], *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
            )
        self.daemons["tool"] = tool
        while True:
            try:
                code = tool.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                self.watch(None, "")
        del self.daemons["tool"]
        if code:
            raise _FailedError(f"{program} {' '.join(arguments[:3])} ended with {code}")

    def answer(self, monitor: subprocess.Popen[bytes], line: str, wanted: str) -> None:
        assert monitor.stdin is not None
        assert monitor.stdout is not None
        os.set_blocking(monitor.stdout.fileno(), False)
        if line:
            try:
                monitor.stdin.write(line.encode() + b"\n")
                monitor.stdin.flush()
            except OSError:
                pass
        while True:
            got = monitor.stdout.readline()
            if got:
                break
            self.watch(monitor, "the command to the monitor")
            time.sleep(0.01)
        if got.decode().strip() != wanted:
            raise _FailedError(f"the monitor answered {got!r} to {line!r}")

    def watch(self, daemon: subprocess.Popen[bytes] | None, name: str) -> None:
        """While waiting: is there still somebody to wait for, and on?"""
        if self.alone():
            raise _NobodyLeftError
        if daemon is not None and (code := daemon.poll()) is not None:
            raise _FailedError(f"{name} ended with {code}")


class _FailedError(Exception):
    pass


class _NobodyLeftError(Exception):
    pass


def _free_ports(count: int) -> list[int]:
    """Below the range from which the system takes ports for outgoing connections, so that a killed server's port
    is still free when it comes back."""
    try:
        below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        below = 32768
    # 6800 to 7568 are where Ceph's daemons open ports of their own.
    span = (10000, min(below, 32768)) if below >= 12000 else (33000, 60000)
    found: list[int] = []
    for _ in range(1000):
        port = random.randrange(*span)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
        if len(found) == count:
            return found
    raise _FailedError("found no free ports on the loopback interface")


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    assert _libc is not None
    _libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    sys.exit(_Supervisor(Path(sys.argv[1]), sys.argv[2], sys.argv[3]).main())
