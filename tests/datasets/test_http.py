"""Datasets on plain web servers, good ones and bad ones."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from dataset_samples import Digit, digits

import atdata
from atdata.errors import (
    AccessDeniedError,
    AtdataError,
    DatasetNotFoundError,
    IntegrityError,
    StoreError,
)
from atdata.stores.base import WrittenShards
from atdata.stores.http import HttpObject, redirected
from atdata.stores.s3 import S3DataStore
from atdata.testing import FaultProxy
from servers.rgw import S3Server
from servers.web import WebServer


@pytest.fixture
def served(web: WebServer, urls: WrittenShards) -> WebServer:
    """The 25 digits of `urls` at digits/, those of `bare` not."""
    shutil.copytree(Path(urls[0]).parent, web.folder / "digits")
    return web


def sources(web: WebServer) -> list[Any]:
    names = [f"digits/shard-{n:06d}.tar" for n in range(3)]
    return [
        [web.url(name) for name in names],
        f"{web.endpoint}/digits/shard-{{000000..000002}}.tar",
        f"{web.endpoint}/digits",
        f"{web.endpoint}/digits/",
    ]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_read_by_url(served: WebServer, ranges: bool, lengths: bool, beside: bool) -> None:
    served.ranges, served.lengths = ranges, lengths
    if not beside:
        for path in (served.folder / "digits").iterdir():
            if path.suffix != ".tar":
                path.unlink()
    for source in sources(served) if beside else sources(served)[:2]:
        ds = atdata.Dataset[Digit](source)
        assert list(ds) == digits(25)
        assert len(ds) == 25
        assert ds[12] == digits(25)[12]
        assert ds[8:13] == digits(25)[8:13]
        assert ds.get("000000021") == digits(25)[21]
        assert [len(batch) for batch in ds.ordered(batch_size=10)] == [10, 10, 5]


def test_one_sample_is_one_range(served: WebServer) -> None:
    ds = atdata.Dataset[Digit](f"{served.endpoint}/digits")
    assert ds[3] == digits(4)[3]
    assert [request.path for request in served.requests] == [
        "/digits/atdata.json", "/digits/shard-000000.manifest.parquet", "/digits/shard-000000.tar",
    ]  # fmt: skip
    assert served.requests[-1].status == 206
    first, last = served.requests[-1].range.removeprefix("bytes=").split("-")
    assert int(last) - int(first) < 200


def test_a_server_without_ranges_sends_the_file_once(served: WebServer) -> None:
    served.ranges = False
    file = HttpObject(served.url("digits/shard-000000.tar"))
    data = (served.folder / "digits/shard-000000.tar").read_bytes()
    assert file.read(100, 200) == data[100:200]
    assert file.size == len(data)
    assert file.stream().read() == data
    assert len(served.requests) == 1


def test_web_servers_cannot_be_listed(served: WebServer) -> None:
    with pytest.raises(DatasetNotFoundError, match="braces"):
        atdata.Dataset(f"{served.endpoint}/digits/*.tar")


def test_redirects(served: WebServer) -> None:
    for n in range(3):
        served.redirect(f"old/shard-{n:06d}.tar", served.url(f"digits/shard-{n:06d}.tar"))
    assert list(atdata.Dataset[Digit](f"{served.endpoint}/old/shard-{{000000..000002}}.tar")) == digits(25)
    served.redirect("loop.tar", served.url("loop.tar"))
    with pytest.raises(StoreError):
        HttpObject(served.url("loop.tar")).read(0, 1)
    for target in ("ftp://127.0.0.1/x.tar", "file:///etc/passwd"):
        served.redirect("away.tar", target)
        with pytest.raises(StoreError, match="not followed"):
            HttpObject(served.url("away.tar")).read(0, 1)


def test_where_redirects_may_lead() -> None:
    assert redirected("http://host/a/b.tar?x", "/c d.tar#e") == "http://host/c%20d.tar"
    assert redirected("http://host/a/b.tar", "https://other/c?d=e%20f") == "https://other/c?d=e%20f"
    assert redirected("https://host/a/b.tar", "//other/c") == "https://other/c"
    for target in ("http://host/a.tar?secret", "ftp://host/a", "file:///etc/passwd", "https://me:secret@host/a"):
        with pytest.raises(StoreError, match="not followed") as caught:
            redirected("https://host/a.tar?secret", target)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, DatasetNotFoundError, "no such file"),
        (410, DatasetNotFoundError, "no such file"),
        (403, AccessDeniedError, "denies access"),
        (401, AccessDeniedError, "denies access"),
        (418, StoreError, "418"),
    ],
)
def test_refusals_are_told_at_once(served: WebServer, status: int, kind: type[AtdataError], message: str) -> None:
    ds = atdata.Dataset[Digit](f"{served.endpoint}/digits")
    served.answer("digits/shard-000001.tar", status)
    with pytest.raises(kind, match=message) as caught:
        list(ds)
    assert caught.value.url == served.url("digits/shard-000001.tar")
    assert sum(request.path == "/digits/shard-000001.tar" for request in served.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_trouble_that_passes_is_waited_for(rgw: S3Server, bucket: str, fault_proxy: FaultProxy, status: int) -> None:
    assert rgw.request("PUT", f"/{bucket}/a", body=b"0123456789").status == 200
    file = HttpObject(rgw.through(fault_proxy).presign("GET", f"/{bucket}/a"))
    fault_proxy.answer_next(status, count=2, headers={"Retry-After": "1"} if status == 429 else None)
    began = time.monotonic()
    assert file.read(2, 5) == b"234"
    assert (time.monotonic() - began >= 2) == (status == 429)
    assert [request.status for request in fault_proxy.requests()] == [status, status, 206]


def test_a_server_that_asks_for_too_long_a_wait(served: WebServer) -> None:
    served.answer("digits/shard-000000.tar", 429, {"Retry-After": "86400"})
    began = time.monotonic()
    with pytest.raises(StoreError, match="429"):
        HttpObject(served.url("digits/shard-000000.tar")).read(0, 1)
    assert time.monotonic() - began < 10


def test_trouble_that_stays_is_an_error(served: WebServer) -> None:
    served.answer("a.tar", 503)
    with pytest.raises(StoreError, match=r"6 times.*503"):
        HttpObject(served.url("a.tar")).read(0, 1)
    assert len(served.requests) == 6


def test_nobody_there(served: WebServer) -> None:
    address = served.url("digits/shard-000000.tar")
    served.close()
    with pytest.raises(StoreError, match="refused"):
        HttpObject(address).read(0, 1)


@pytest.mark.parametrize("reset", [False, True])
def test_a_body_that_is_cut_goes_on_where_it_stopped(
    rgw: S3Server, bucket: str, fault_proxy: FaultProxy, reset: bool
) -> None:
    data = bytes(range(256)) * 20_000
    assert rgw.request("PUT", f"/{bucket}/a", body=data).status == 200
    file = HttpObject(rgw.through(fault_proxy).presign("GET", f"/{bucket}/a"))
    fault_proxy.set(cut_after=500_000, cut_reset=reset)
    assert file.read(0, len(data)) == data
    assert file.stream().read() == data
    if not reset:  # an RST also throws away what the kernel had
        got = sum(request.sent for request in fault_proxy.requests())
        assert got < 2 * len(data) + 3_000_000  # what had come was not asked for again


def test_a_presigned_url_that_has_expired(rgw: S3Server, bucket: str) -> None:
    store = S3DataStore(rgw.credentials, bucket=bucket)
    store.write_shards(atdata.Dataset.from_samples(digits(3), Digit), prefix="v1")
    address = rgw.presign("GET", f"/{bucket}/v1/shard-000000.tar", expires=60)
    assert list(atdata.Dataset[Digit]([address])) == digits(3)
    old = rgw.presign("GET", f"/{bucket}/v1/shard-000000.tar", expires=60, at=time.time() - 3600)
    with pytest.raises(AccessDeniedError, match="may have expired") as caught:
        list(atdata.Dataset[Digit]([old]))
    assert "Signature" not in str(caught.value) + repr(vars(caught.value))


def test_a_file_that_is_replaced(served: WebServer) -> None:
    name = "digits/shard-000000.tar"
    data = (served.folder / name).read_bytes()
    file = HttpObject(served.url(name))
    assert file.read(0, 10) == data[:10]
    served.wrong(name, bytes(len(data)))
    with pytest.raises(IntegrityError, match="replaced"):
        file.read(10, 20)


def test_a_file_of_another_size_or_content(served: WebServer) -> None:
    name = "digits/shard-000001.tar"
    data = (served.folder / name).read_bytes()
    flipped = bytearray(data)
    flipped[5 * 1024 + 520] ^= 1
    for other in (data + bytes(512), data[:-512], bytes(flipped), bytes(len(data))):
        served.wrong(name, other)
        for ranges in (True, False):
            served.ranges = ranges
            ds = atdata.Dataset[Digit](f"{served.endpoint}/digits")
            seen: list[Digit] = []
            with pytest.raises(IntegrityError) as caught:
                seen.extend(ds)
            assert seen == digits(25)[: len(seen)]
            assert caught.value.url == served.url(name)


def test_names_that_need_quoting(served: WebServer) -> None:
    shutil.copy(served.folder / "digits/shard-000000.tar", served.folder / "ü b%20+c.tar")
    quoted = served.url("ü b%20+c.tar")
    for address in (quoted, f"{served.endpoint}/ü b%2520+c.tar"):
        assert list(atdata.Dataset[Digit]([address])) == digits(10)


def test_a_password_in_the_url_is_not_told() -> None:
    with pytest.raises(StoreError, match="name and password") as caught:
        HttpObject("https://user:geheim@127.0.0.1/a.tar?x=y")
    assert "geheim" not in str(caught.value) + repr(vars(caught.value))
