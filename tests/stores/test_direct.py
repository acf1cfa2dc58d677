"""What reads S3 in forked processes, on a real server and its bad days; forks themselves are in another file."""

from __future__ import annotations

import base64
import hashlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atdata.errors import AccessDeniedError, DatasetNotFoundError, IntegrityError, StoreError
from atdata.stores import direct, transport
from atdata.stores.direct import DirectReader
from atdata.stores.s3 import RETRIES
from atdata.stores.signing import Keys
from atdata.testing import FaultProxy
from servers.front import TlsFront, WebProxy
from servers.rgw import S3Server

DATA = np.random.default_rng(1).integers(0, 256, 3_000_000, np.uint8).tobytes()


def reader_of(server: S3Server, bucket: str, endpoint: str = "", **changes: Any) -> DirectReader:
    keys = Keys(server.access_key, server.secret_key)
    root = f"{endpoint or server.endpoint}/{bucket}"
    return DirectReader(f"s3://{bucket}/", root, server.region, lambda: keys, {**RETRIES, **changes})


@pytest.fixture
def reader(rgw: S3Server, bucket: str, fault_proxy: FaultProxy) -> Iterator[DirectReader]:
    assert rgw.request("PUT", f"/{bucket}/data", body=DATA).status == 200
    fault_proxy.forget()
    made = reader_of(rgw, bucket, fault_proxy.endpoint)
    yield made
    made.close()


def test_objects_and_ranges(reader: DirectReader, rgw: S3Server, bucket: str) -> None:
    etag = rgw.request("HEAD", f"/{bucket}/data").headers["etag"]
    assert reader.head("data") == (b"", len(DATA), etag)
    assert reader.fetch("data") == (DATA, len(DATA), etag)
    assert reader.fetch("data", 0, 10) == (DATA[:10], len(DATA), etag)
    assert reader.fetch("data", 2_999_990, 3_000_000, etag) == (DATA[-10:], len(DATA), etag)
    assert reader.fetch("data", 2_999_990, 3_000_010).data == DATA[-10:]  # whoever asks has to look
    assert reader.fetch("data", 5, 6).data.readonly
    rgw.request("PUT", f"/{bucket}/empty", body=b"")
    assert reader.fetch("empty").data == b""


def test_what_is_not_there(reader: DirectReader, rgw: S3Server) -> None:
    for ask in (lambda: reader.head("none"), lambda: reader.fetch("none"), lambda: reader.fetch("none", 1, 2)):
        with pytest.raises(DatasetNotFoundError) as caught:
            ask()
        assert caught.value.url == f"{reader._base}none"
    with pytest.raises(StoreError, match="shorter"):
        reader.fetch("data", 4_000_000, 4_000_001)
    other = reader_of(rgw, "no-such-bucket")
    for ask in (lambda: other.fetch("data"), lambda: other.keys("")):
        with pytest.raises(StoreError, match="bucket does not exist"):
            ask()
    other.close()


def test_any_key(reader: DirectReader, rgw: S3Server, bucket: str) -> None:
    keys = [
        "with space/a b",
        "per%20cent/100%",
        "a+b/c&d=e",
        "ünïcode/日本",
        "<a>&amp;'\"",
        "q?x#y",
        "a//b",
        "tab\tkey",
    ]
    for key in keys:
        rgw.request("PUT", f"/{bucket}/{key}", body=key.encode())
    assert sorted(reader.keys("")) == sorted([*keys, "data"])
    for key in keys:
        assert reader.fetch(key).data == key.encode()
        assert list(reader.keys(key)) == [key]
    assert list(reader.keys("none/")) == []


def test_more_keys_than_one_answer_lists(reader: DirectReader, rgw: S3Server, bucket: str, fault_proxy: Any) -> None:
    names = [f"many/{n:04d}&" for n in range(1001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: rgw.request("PUT", f"/{bucket}/{name}", body=b"x"), names))
    assert list(reader.keys("many/")) == names
    assert len(fault_proxy.requests()) == 2


def test_connections_are_kept(reader: DirectReader, fault_proxy: FaultProxy) -> None:
    for at in range(10):
        assert reader.fetch("data", at, at + 1).data == DATA[at : at + 1]
    with pytest.raises(DatasetNotFoundError):
        reader.fetch("none")
    reader.head("data")
    reader.keys("")
    assert {request.connection for request in fault_proxy.requests()[:11]} == {1}
    assert fault_proxy.connections()[1] <= 2  # that of a refusal is not kept


def test_threads_have_connections_of_their_own(reader: DirectReader, fault_proxy: FaultProxy) -> None:
    fault_proxy.set(latency=0.05)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: bytes(reader.fetch("data", at, at + 1000).data), range(0, 64_000, 1000)))
    assert b"".join(found) == DATA[:64_000]
    assert fault_proxy.connections() == (8, 8)


def test_a_connection_that_the_server_closed_meanwhile(reader: DirectReader, fault_proxy: FaultProxy) -> None:
    for _ in range(3):
        assert reader.fetch("data", 0, 10).data == DATA[:10]
        fault_proxy.reset()
    assert len(fault_proxy.requests()) == 3  # no try was lost


@pytest.mark.parametrize("reset", [False, True])
def test_what_is_cut_goes_on(reader: DirectReader, fault_proxy: FaultProxy, reset: bool) -> None:
    fault_proxy.set(cut_after=1_000_000, cut_reset=reset)
    assert reader.fetch("data").data == DATA
    assert reader.fetch("data", 100, 2_900_000).data == DATA[100:2_900_000]
    if not reset:  # which takes away too what has arrived and was not read yet
        assert sum(request.sent for request in fault_proxy.requests("GET")) < 2 * len(DATA) + 8 * direct._PIECE


def test_replaced_while_it_is_read(
    reader: DirectReader, rgw: S3Server, bucket: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(seconds: float) -> None:
        fault_proxy.clear()
        rgw.request("PUT", f"/{bucket}/data", body=DATA[::-1])

    fault_proxy.set(cut_after=1_000_000)
    monkeypatch.setattr(time, "sleep", replace)  # between the first part and the rest
    with pytest.raises(IntegrityError, match="replaced"):
        reader.fetch("data", 0, 3_000_000)
    with pytest.raises(IntegrityError, match="replaced"):
        reader.fetch("data", 0, 10, f'"{hashlib.md5(DATA).hexdigest()}"')
    assert reader.fetch("data").data == DATA[::-1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_asked_again_when_the_server_says_so(reader: DirectReader, fault_proxy: FaultProxy, status: int) -> None:
    fault_proxy.answer_next(status, count=2, headers={"Retry-After": "1"})
    assert reader.fetch("data", 0, 10).data == DATA[:10]
    first, second, third = fault_proxy.requests()
    assert second.at - first.at >= 1
    assert third.at - second.at >= 1
    fault_proxy.set(fail_share=0.3, seed=3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: reader.fetch("data", at, at + 1), range(50)))


def test_a_server_that_stays_bad(rgw: S3Server, bucket: str, reader: DirectReader, fault_proxy: FaultProxy) -> None:
    impatient = reader_of(rgw, bucket, fault_proxy.endpoint, max_retries=2)
    fault_proxy.set(fail_share=1.0)
    for ask in (lambda: impatient.fetch("data"), lambda: impatient.head("data"), lambda: impatient.keys("")):
        fault_proxy.forget()
        with pytest.raises(StoreError, match="503"):
            ask()
        assert len(fault_proxy.requests()) == 3
    fault_proxy.set(fail_share=0.0, refuse=True)
    fault_proxy.reset()
    with pytest.raises(StoreError, match="also when asked 3 times"):
        impatient.fetch("data")
    impatient.close()


def test_silence_ends(
    rgw: S3Server, bucket: str, reader: DirectReader, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SILENCE", 0.2)
    impatient = reader_of(rgw, bucket, fault_proxy.endpoint, max_retries=1)
    assert impatient.fetch("data", 0, 10).data == DATA[:10]
    fault_proxy.stall()
    with pytest.raises(StoreError, match="no answer in time"):
        impatient.fetch("data")
    fault_proxy.release()
    assert impatient.fetch("data", 0, 10).data == DATA[:10]
    impatient.close()


def test_trickling_ends(
    rgw: S3Server, bucket: str, reader: DirectReader, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = reader_of(rgw, bucket, fault_proxy.endpoint, retry_timeout=timedelta(seconds=0.5))
    fault_proxy.set(bandwidth=3_000)  # 1000 s for all of it
    with pytest.raises(StoreError, match=r"takes too long|in time"):
        impatient.fetch("data")
    impatient.close()


def test_a_server_without_ranges(reader: DirectReader, fault_proxy: FaultProxy) -> None:
    fault_proxy.answer_next(200, body="all of it")
    with pytest.raises(StoreError, match="cannot give a part"):
        reader.fetch("data", 10, 12)
    for told in ("bytes 0-1/12", "bytes 10-11/*", "nonsense", ""):
        fault_proxy.answer_next(206, body="al", headers={"Content-Range": told})
        with pytest.raises(StoreError, match="another range"):
            reader.fetch("data", 10, 12)
    fault_proxy.answer_next(206, body="all of it", headers={"Content-Range": "bytes 10-11/3000000"})
    with pytest.raises(StoreError, match="more than"):
        reader.fetch("data", 10, 12)


def test_nobody_in_particular(rgw: S3Server, bucket: str, reader: DirectReader) -> None:
    anonymous = DirectReader(f"s3://{bucket}/", f"{rgw.endpoint}/{bucket}", rgw.region, None, RETRIES)
    with pytest.raises(AccessDeniedError):
        anonymous.fetch("data")
    rgw.request("PUT", f"/{bucket}", {"acl": ""}, headers={"x-amz-acl": "public-read"})
    rgw.request("PUT", f"/{bucket}/open", body=b"to all", headers={"x-amz-acl": "public-read"})
    assert anonymous.fetch("open").data == b"to all"
    assert "open" in anonymous.keys("")
    assert anonymous.presigned("open") == f"{rgw.endpoint}/{bucket}/open"
    anonymous.close()


@pytest.fixture
def secure(rgw: S3Server, tmp_path: Path) -> Iterator[TlsFront]:
    with TlsFront(rgw.endpoint, tmp_path) as front:
        yield front


def test_by_tls(
    rgw: S3Server, bucket: str, reader: DirectReader, secure: TlsFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = reader_of(rgw, bucket, secure.endpoint, max_retries=1)
    with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
        trusting.fetch("data")
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.certificate))
    assert trusting.fetch("data").data == DATA
    assert list(trusting.keys("")) == ["data"]
    assert trusting.presigned("data").startswith(secure.endpoint)
    by_name = reader_of(rgw, bucket, secure.endpoint.replace("localhost", "127.0.0.1"), max_retries=1)
    with pytest.raises(StoreError, match="certificate"):
        by_name.fetch("data")
    trusting.close()
    by_name.close()


def test_by_a_proxy(
    rgw: S3Server, bucket: str, reader: DirectReader, secure: TlsFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.certificate))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with WebProxy() as proxy:
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", proxy.endpoint.replace("://", "://me:pass%20word@"))
        for endpoint in (rgw.endpoint, secure.endpoint):
            behind = reader_of(rgw, bucket, endpoint)
            proxy.asked.clear()
            assert behind.fetch("data").data == DATA
            line, who = proxy.asked[0]
            if endpoint is secure.endpoint:
                version = "1.1" if sys.version_info >= (3, 12) else "1.0"
                assert line == f"CONNECT {endpoint.partition('://')[2]} HTTP/{version}"
            else:
                assert line == f"GET {endpoint}/{bucket}/data HTTP/1.1"
            assert base64.b64decode(who.removeprefix("Basic ")) == b"me:pass word"
            behind.close()
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        proxy.asked.clear()
        direct = reader_of(rgw, bucket)
        assert direct.fetch("data").data == DATA
        assert proxy.asked == []
        direct.close()
