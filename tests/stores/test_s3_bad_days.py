"""`S3DataStore` where things are not as they should be: regions, clocks, roles, servers that stall or drip."""

from __future__ import annotations

import email.utils
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import AccessDeniedError, StoreError, UnsafeNameError
from atdata.stores import direct, s3, transport
from atdata.stores.s3 import S3DataStore
from atdata.testing import FaultProxy
from servers.rgw import BY_HOST, RGW, ROLES, HasEndpoint, S3Server
from servers.web import WebServer

pytestmark = pytest.mark.timeout(120)

REGION_ERRORS = {
    301: "<Error><Code>PermanentRedirect</Code><Endpoint>b.s3.eu-west-1.amazonaws.com</Endpoint></Error>",
    307: "<Error><Code>TemporaryRedirect</Code></Error>",
    400: "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
}


@atdata.packable
class Block:
    data: NDArray[np.uint8]
    number: int


def blocks(count: int, size: int = 1000) -> list[Block]:
    return [Block(np.random.default_rng(number).integers(0, 256, size, np.uint8), number) for number in range(count)]


def write(store: S3DataStore, samples: list[Block], prefix: str = "v1", **options: Any) -> list[str]:
    return store.write_shards(atdata.Dataset.from_samples(samples, Block), prefix=prefix, **options)


def read(store: S3DataStore, prefix: str = "v1") -> list[Block]:
    return list(atdata.Dataset[Block](f"{store.base}{prefix}", store=store))


@pytest.fixture
def store(rgw: S3Server, bucket: str) -> S3DataStore:
    return S3DataStore(rgw.credentials, bucket=bucket)


@pytest.fixture
def faulty(rgw: S3Server, bucket: str, fault_proxy: FaultProxy) -> S3DataStore:
    return S3DataStore(rgw.through(fault_proxy).credentials, bucket=bucket)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes takes a second: time-outs, deadlines, and how often is asked."""
    times = {"timeout": "1s", "read_timeout": "300ms", "connect_timeout": "1s"}
    monkeypatch.setattr(s3, "_TIMES", times)
    monkeypatch.setattr(transport, "SILENCE", 0.3)
    monkeypatch.setitem(s3.RETRIES, "max_retries", 1)
    monkeypatch.setitem(s3.RETRIES, "retry_timeout", timedelta(seconds=1))


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment in which nothing says who asks."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "ENDPOINT"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


# -- where it is ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_host() -> Iterator[RGW]:
    with RGW(settings=BY_HOST) as server:
        assert server.request("PUT", "/").status == 200
        yield server


@pytest.mark.parametrize("named", [False, True], ids=["the domain", "the bucket's own host"])
def test_the_bucket_in_the_host(by_host: RGW, named: bool) -> None:
    port = by_host.endpoint.rpartition(":")[2]
    endpoint = f"http://{'127.' if named else ''}0.0.1:{port}/"
    store = S3DataStore({**by_host.credentials, "AWS_ENDPOINT": endpoint}, bucket="127", virtual_host=True)
    prefix = f"a b/{named}"
    urls = write(store, blocks(4), prefix, maxcount=2)
    assert urls == [f"s3://127/{prefix}/shard-00000{n}.tar" for n in range(2)]
    assert read(store, prefix) == blocks(4)
    assert by_host.request("HEAD", f"/{prefix}/shard-000000.tar").status == 200
    with urllib.request.urlopen(store.read_url(urls[0]), timeout=20) as answer:
        assert answer.url.startswith(f"http://127.0.0.1:{port}/a%20b/")
        assert len(answer.read()) == store.open(urls[0]).size


def test_the_region_is_asked_for(rgw: S3Server, store: S3DataStore, bucket: str, fault_proxy: FaultProxy) -> None:
    write(store, blocks(3))
    given = {name: value for name, value in rgw.through(fault_proxy).credentials.items() if name != "AWS_REGION"}
    fault_proxy.answer_next(403, method="HEAD", headers={"x-amz-bucket-region": "eu-central-1"})
    found = S3DataStore(given, bucket=bucket)
    assert read(found) == blocks(3)
    assert "%2Feu-central-1%2Fs3%2F" in found.read_url(f"{found.base}v1/shard-000000.tar")
    assert len([request for request in fault_proxy.requests("HEAD") if request.path == f"/{bucket}"]) == 1
    silent = S3DataStore(given, bucket=bucket)
    assert "%2Fus-east-1%2Fs3%2F" in silent.read_url(f"{found.base}v1/shard-000000.tar")


def test_amazon_is_asked_for_the_region(nobody: None, monkeypatch: pytest.MonkeyPatch, fault_proxy: FaultProxy) -> None:
    monkeypatch.setattr(s3, "_AMAZON", fault_proxy.endpoint)
    fault_proxy.answer_next(301, method="HEAD", headers={"x-amz-bucket-region": "ap-south-1"})
    store = S3DataStore({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, bucket="some-bucket")
    url = store.read_url("s3://some-bucket/x.tar")
    assert url.startswith("https://some-bucket.s3.ap-south-1.amazonaws.com/x.tar?")
    fault_proxy.set(refuse=True)  # no network: where most are
    other = S3DataStore({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, bucket="other-bucket")
    assert ".s3.us-east-1.amazonaws.com" in other.read_url("s3://other-bucket/x.tar")


@pytest.mark.parametrize("status", REGION_ERRORS)
@pytest.mark.parametrize(
    "use",
    [
        read,
        lambda store: store.open(f"{store.base}v1/shard-000000.tar"),
        lambda store: list(store.list()),
        lambda store: write(store, blocks(1)),
    ],
    ids=["read", "open", "list", "write"],
)
def test_a_bucket_in_another_region(
    rgw: S3Server,
    bucket: str,
    faulty: S3DataStore,
    fault_proxy: FaultProxy,
    status: int,
    use: Callable[[S3DataStore], Any],
) -> None:
    headers = {"x-amz-bucket-region": "eu-west-1"}
    if status == 307:
        headers["Location"] = f"{rgw.endpoint}/{bucket}/elsewhere"
    fault_proxy.answer_next(status, count=20, headers=headers, body=REGION_ERRORS[status])
    with pytest.raises(StoreError, match="in the region eu-west-1, not us-east-1: set AWS_REGION to it"):
        use(faulty)
    assert len(fault_proxy.requests()) <= 3


# -- who asks ------------------------------------------------------------------------------------------------


def test_a_clock_that_is_wrong(
    store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server itself refuses what was signed an hour ago."""

    class Late(datetime):
        @classmethod
        def now(cls, zone: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(zone) - timedelta(hours=1)

    write(store, blocks(3))
    monkeypatch.setattr(direct, "datetime", Late)
    fault_proxy.answer_next(503)
    with pytest.raises(AccessDeniedError, match=r"this machine's clock .* set it right"):
        read(faulty)


@pytest.fixture(scope="module")
def with_roles() -> Iterator[RGW]:
    with RGW(settings=ROLES) as server:
        yield server


def test_keys_that_are_good_with_their_token(
    with_roles: RGW,
    make_proxy: Callable[[HasEndpoint], FaultProxy],
    nobody: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    bucket, fault_proxy = with_roles.make_bucket(), make_proxy(with_roles)
    given = {**with_roles.assume_role(), "AWS_ENDPOINT": fault_proxy.endpoint}
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    store = S3DataStore(given, bucket=bucket)
    urls = write(store, blocks(5), maxcount=2)
    for other in (store, S3DataStore(file, bucket=bucket)):
        assert read(other) == blocks(5)
        with urllib.request.urlopen(other.read_url(urls[0]), timeout=20) as answer:
            assert answer.read(10)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert read(S3DataStore(bucket=bucket)) == blocks(5)
    fault_proxy.set(fail_every=3)  # so that some are asked for again, in the other way
    assert read(store) == blocks(5)
    token = given["AWS_SESSION_TOKEN"]
    for request in fault_proxy.requests():
        assert request.headers.get("x-amz-security-token") == token or "X-Amz-Security-Token=" in request.path
    fault_proxy.clear()
    for changed in ("", token[:-8] + "AAAAAAA="):
        wrong = S3DataStore({**given, "AWS_SESSION_TOKEN": changed}, bucket=bucket)
        with pytest.raises(AccessDeniedError) as caught:
            read(wrong)
        assert token[:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [("ExpiredToken", "session token has expired; get new credentials"), ("InvalidToken", "session token is not one")],
)
def test_tokens_that_are_refused(faulty: S3DataStore, fault_proxy: FaultProxy, code: str, message: str) -> None:
    fault_proxy.answer_next(400, count=20, body=f"<Error><Code>{code}</Code></Error>")
    for use in (lambda: read(faulty), lambda: list(faulty.list()), lambda: write(faulty, blocks(1))):
        with pytest.raises(AccessDeniedError, match=message):
            use()


@pytest.mark.parametrize("machine", [False, True], ids=["a container's", "a machine's"])
def test_the_keys_of_a_role(
    with_roles: RGW,
    make_proxy: Callable[[HasEndpoint], FaultProxy],
    web: WebServer,
    nobody: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    machine: bool,
) -> None:
    """Nothing but the address of the keys is in the environment."""
    bucket, fault_proxy = with_roles.make_bucket(), make_proxy(with_roles)
    given = with_roles.assume_role()
    expires = email.utils.formatdate(time.time() + 3600)
    told = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": given["AWS_ACCESS_KEY_ID"],
        "SecretAccessKey": given["AWS_SECRET_ACCESS_KEY"],
        "Token": given["AWS_SESSION_TOKEN"],
        "Expiration": f"{datetime(*email.utils.parsedate(expires)[:6]):%Y-%m-%dT%H:%M:%SZ}",  # type: ignore[index, misc]
    }
    keys = "latest/meta-data/iam/security-credentials/"
    if machine:
        web.answer("latest/api/token", 200, body=b"pass")
        web.answer(keys, 200, body=b"our-role")
        web.answer(f"{keys}our-role", 200, body=json.dumps(told).encode())
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", web.endpoint)
    else:
        (tmp_path / "pass").write_text("pass")
        web.answer("keys", 200, body=json.dumps(told).encode())
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{web.endpoint}/keys")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "pass"))
    monkeypatch.setenv("AWS_ENDPOINT", fault_proxy.endpoint)
    monkeypatch.setenv("AWS_REGION", with_roles.region)
    store = S3DataStore(bucket=bucket)
    write(store, blocks(5), maxcount=2)
    assert read(store) == blocks(5)
    fault_proxy.set(fail_every=3)
    assert read(store) == blocks(5)
    assert {request.headers["x-amz-security-token"] for request in fault_proxy.requests()} == {
        given["AWS_SESSION_TOKEN"]
    }


# -- servers that take their time ----------------------------------------------------------------------------


def test_a_server_that_falls_silent(
    hurried: None, store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy
) -> None:
    write(store, blocks(3))
    assert read(faulty) == blocks(3)
    fault_proxy.stall()
    for use in (
        lambda: read(faulty),
        lambda: list(faulty.list()),
        lambda: faulty.open(f"{faulty.base}v1/shard-000000.tar"),
        lambda: write(faulty, blocks(3), "v2"),
        lambda: faulty.delete("v1"),
    ):
        with pytest.raises(StoreError, match="in time"):
            use()
    fault_proxy.release()
    assert read(faulty) == blocks(3)


def test_a_server_that_falls_silent_in_a_write(hurried: None, faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    def samples() -> Iterator[Block]:
        for number, block in enumerate(blocks(40, 1 << 20)):
            if number == 20:
                fault_proxy.stall()
            yield block

    with pytest.raises(StoreError):
        faulty.write_shards(atdata.Dataset.from_samples(samples(), Block), prefix="v1")
    fault_proxy.release()
    fault_proxy.reset()
    write(faulty, blocks(3))
    assert read(faulty) == blocks(3)


def test_a_server_that_drips(hurried: None, store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    """A byte now and then ends no silence for ever: each read as a whole has its time."""
    write(store, blocks(30, 10_000))
    fault_proxy.set(bandwidth=20)
    with pytest.raises(StoreError, match=r"in time|too long"):
        read(faulty)
    fault_proxy.clear()
    assert read(faulty) == blocks(30, 10_000)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "use",
    [
        lambda store: read(store),
        lambda store: list(store.list()),
        lambda store: store.open(f"{store.base}v1/shard-000000.tar"),
    ],
    ids=["read", "list", "open"],
)
def test_a_server_that_asks_to_wait(
    store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy, status: int, use: Callable[[S3DataStore], Any]
) -> None:
    write(store, blocks(3))
    fault_proxy.answer_next(status, count=2, headers={"Retry-After": "1"})
    use(faulty)
    first = fault_proxy.requests()[:3]
    assert [request.status for request in first[:2]] == [status, status]
    assert first[2].at - first[1].at >= 1  # the first answer is one whose headers nobody sees


def test_a_server_that_asks_to_wait_too_long(store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    write(store, blocks(3))
    fault_proxy.answer_next(503, count=9, headers={"Retry-After": "3600"})
    with pytest.raises(StoreError, match="a longer wait than there is time for"):
        read(faulty)
    assert len(fault_proxy.requests()) == 2


# -- connections and answers ---------------------------------------------------------------------------------


def test_each_third_request_fails(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    fault_proxy.set(fail_every=3)
    write(faulty, blocks(12), maxcount=4)
    assert read(faulty) == blocks(12)
    assert len(list(faulty.list())) == 10
    assert any(request.status == 503 for request in fault_proxy.requests("PUT"))


def test_answers_that_are_short(store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    write(store, blocks(3, 20_000))
    for number in range(3):  # the record, the manifest, the samples
        for at in (0.0, 0.3, 0.99):
            fault_proxy.shorten(answer=number, at=at)
            assert read(faulty) == blocks(3, 20_000)


def test_connections_too_short_for_a_part(
    hurried: None, rgw: S3Server, store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy, bucket: str
) -> None:
    """Where no part of an upload ever arrives, that is an error, and nothing is left."""
    fault_proxy.set(cut_after=1_000_000, cut_reset=True)
    with pytest.raises(StoreError):
        write(faulty, blocks(20, 1 << 20))
    fault_proxy.clear()
    assert list(store.list()) == []
    write(store, blocks(2))
    assert read(store) == blocks(2)
    assert rgw.uploads(bucket) == []


@pytest.mark.parametrize("far", ["s3://{bucket}/", "http://127.0.0.1:9/"])
def test_braces_that_mean_too_much(store: S3DataStore, bucket: str, far: str) -> None:
    prefix = far.replace("{bucket}", bucket)
    for bomb in ("{0..99999999999}.tar", "{a,b}" * 40 + ".tar", "{0..999}{0..999}{0..999}.tar", "{{a}.tar", "a}.tar{"):
        with pytest.raises(UnsafeNameError, match=r"more than|do not pair"):
            atdata.Dataset(prefix + bomb, store=store if far.startswith("s3") else None)


@pytest.mark.parametrize("name", ["../v1", "v1/../../other", ".", "v1/./x", "v1/\n"])
def test_prefixes_that_lead_elsewhere(store: S3DataStore, name: str) -> None:
    for source in (f"{store.base}{name}", [f"{store.base}{name}/shard-000000.tar"]):
        with pytest.raises(UnsafeNameError):
            list(atdata.Dataset(source, store=store))


# -- writers that were killed --------------------------------------------------------------------------------

KILLED = """
import json, sys
import numpy as np
from numpy.typing import NDArray
import atdata

@atdata.packable
class Block:
    data: NDArray[np.uint8]
    number: int

def samples():
    for number in range(150):
        yield Block(np.zeros(1 << 20, np.uint8), number)
    sys.stdin.read()  # for ever: two shards are there, and parts of the third

given, bucket, options = json.loads(sys.argv[1])
store = atdata.S3DataStore(given, bucket=bucket)
store.write_shards(atdata.Dataset.from_samples(samples(), Block), prefix="a b/v1", maxsize=64 << 20, **options)
"""


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_writer_leaves_nothing_to_be_billed(
    rgw: S3Server, store: S3DataStore, bucket: str, overwrite: bool
) -> None:
    if overwrite:
        write(store, blocks(7), "a b/v1")
    for key in ("a b/v1/inner/shard-000000.tar", "a b/v1/other.bin", "a b/v10/shard-000000.tar"):
        assert rgw.request("POST", f"/{bucket}/{key}", {"uploads": ""}).status == 200  # other people's
    others, before = rgw.uploads(bucket), rgw.keys(bucket)

    def finished() -> int:
        """How many shards of the writer are there; what it still uploads then is the third."""
        return sum(key.endswith(".tar") for key in rgw.keys(bucket) if key not in before)

    told = json.dumps([rgw.credentials, bucket, {"overwrite": True} if overwrite else {}])
    writer = subprocess.Popen([sys.executable, "-c", KILLED, told], stdin=subprocess.PIPE)
    until = time.monotonic() + 60
    try:
        while finished() < 2 or len(rgw.uploads(bucket)) == len(others):
            assert writer.poll() is None
            assert time.monotonic() < until
    finally:
        writer.kill()
        writer.communicate()
    assert len(rgw.uploads(bucket)) > len(others)
    if overwrite:
        assert read(store, "a b/v1") == blocks(7)
    else:
        assert list(store.list()) == []
    urls = write(store, blocks(3), "a b/v1", manifest=False, overwrite=overwrite)
    assert read(store, "a b/v1") == blocks(3)
    assert rgw.uploads(bucket) == others
    assert rgw.keys(bucket) == ["a b/v1/atdata.json", store.key(urls[0])]


def test_more_uploads_than_one_answer_lists(
    rgw: S3Server, store: S3DataStore, bucket: str, fault_proxy: FaultProxy
) -> None:
    """Pages, keys that need quoting, and several uploads of one key."""
    keys = sorted(["a&b<c> d+e%20/ü", "a/b", "a/b", "a/c"])
    for key in keys:
        assert rgw.request("POST", f"/{bucket}/{key}", {"uploads": ""}).status == 200
    dropped: list[str] = []
    S3DataStore(rgw.credentials, bucket=bucket).drop_uploads("a", lambda key: dropped.append(key))
    assert sorted(dropped) == keys
    assert sorted(key for key, _ in rgw.uploads(bucket)) == keys
    pages = [
        "<L><IsTruncated>true</IsTruncated><NextKeyMarker>a%2Fb</NextKeyMarker><NextUploadIdMarker>1&amp;2"
        "</NextUploadIdMarker><Upload><Key>a%2Fb</Key><UploadId>1&amp;2</UploadId></Upload></L>",
        "<L><IsTruncated>false</IsTruncated><Upload><Key>a+c</Key><UploadId>3</UploadId></Upload></L>",
    ]
    for page in pages:
        fault_proxy.answer_next(200, body=page)
    seen: list[str] = []
    S3DataStore(rgw.through(fault_proxy).credentials, bucket=bucket).drop_uploads("a", lambda key: seen.append(key))
    assert seen == ["a/b", "a c"]
    second = fault_proxy.requests()[1].path
    assert "key-marker=a%2Fb" in second
    assert "upload-id-marker=1%262" in second


def test_whoever_may_not_list_uploads_writes_all_the_same(
    store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy, rgw: S3Server, bucket: str
) -> None:
    rgw.request("PUT", f"/{bucket}/v1/.atdata-claims/000000.json", body=b"nobody's")
    fault_proxy.answer_next(403, count=9, path="uploads=")
    write(faulty, blocks(3))
    assert [request.status for request in fault_proxy.requests() if "uploads=" in request.path] == [403]
    assert read(store) == blocks(3)
