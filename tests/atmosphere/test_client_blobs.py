"""Blobs of a real network: sent and fetched as they come, checked by their CIDs, on good days and bad ones."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atdata.atmosphere import Atmosphere, blobs
from atdata.cid import Link
from atdata.errors import AddressError, AtmosphereError, IntegrityError, OversizeError, UnreachableError, XrpcError
from atdata.testing import FaultProxy
from forking import in_fork
from servers.atproto import SharedNetwork
from servers.rude import RudeServer

Login = Callable[..., Atmosphere]
THING = "com.example.thing"
DATA = hashlib.shake_256(b"blob").digest(700_000)
CID = str(Link.to_blob(DATA))
BOB = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"


@pytest.fixture
def proxy(atproto: SharedNetwork) -> Iterator[FaultProxy]:
    """A bad network before the first PDS: login(pds_url=proxy.endpoint)."""
    with FaultProxy(atproto.pds[0]) as proxy:
        yield proxy


def pieces(size: int = 65_536) -> list[bytes]:
    return [DATA[start : start + size] for start in range(0, len(DATA), size)]


def pinned(client: Atmosphere, data: Any = DATA) -> dict[str, Any]:
    """A blob that can be read, as a record names it."""
    blob = client.upload_blob(data, len(DATA), "application/octet-stream")
    client.put_record(THING, "pin", {"blob": blob})
    return blob


FORMS = {
    "bytes": DATA,
    "bytearray": bytearray(DATA),
    "memoryview": memoryview(DATA),
    "pieces": pieces(),
    "uneven": [DATA[:1], DATA[1:]],
    "empty pieces": [b"", DATA, b""],
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_bytes_in_whatever_form_are_sent(login: Login, data: Any) -> None:
    client = login()
    blob = pinned(client, data)
    assert blob["ref"] == {"$link": CID}
    assert blob["size"] == len(DATA)
    assert b"".join(client.blob_chunks(str(client.did), CID)) == DATA


def test_a_blob_is_sent_fetched_and_listed(login: Login, atproto: SharedNetwork) -> None:
    client = login(1)
    blob = pinned(client, iter(pieces()))
    assert blob == {"$type": "blob", "ref": {"$link": CID}, "mimeType": "application/octet-stream", "size": len(DATA)}
    did = str(client.did)
    with Atmosphere(directory=atproto.directory, allow_private=True) as anybody:
        assert b"".join(anybody.blob_chunks(did, CID)) == DATA
        assert b"".join(anybody.blob_chunks(did, CID, limit=len(DATA))) == DATA
        assert anybody.blob_size(did, CID) == len(DATA)
        assert list(anybody.list_blobs(did)) == [CID]
        url = anybody.blob_url(did, CID)
        assert url.startswith(f"{atproto.pds[1]}/xrpc/com.atproto.sync.getBlob?did=did%3Aplc%3A")
        assert anybody.http.ask("GET", url, limit=1 << 20).body == DATA
    assert client.blob_limit == 100 << 20


def test_of_a_stream_that_is_left_nothing_stays_open(login: Login) -> None:
    client = login()
    pinned(client)
    for _ in range(70):  # more than there are connections
        next(client.blob_chunks(str(client.did), CID))


def test_an_empty_blob(login: Login) -> None:
    client = login()
    blob = client.upload_blob(b"", 0, "text/plain")
    assert blob["ref"]["$link"] == str(Link.to_blob(b""))
    client.put_record(THING, "pin", {"blob": blob})
    assert list(client.blob_chunks(str(client.did), blob["ref"]["$link"])) == []


@pytest.mark.parametrize("form", [bytes, list, iter])
@pytest.mark.parametrize(("size", "message"), [(len(DATA) - 1, "there are more"), (len(DATA) + 1, "there are 700000")])
def test_bytes_of_another_number_than_was_said(login: Login, form: Any, size: int, message: str) -> None:
    client = login()
    data = DATA if form is bytes else form(pieces())
    with pytest.raises(IntegrityError, match=rf"the blob was to have {size} bytes, but {message}"):
        client.upload_blob(data, size, "text/plain")
    assert client.upload_blob(b"fine", 4, "text/plain")["size"] == 4


def test_an_error_of_the_bytes_source_is_the_users(login: Login) -> None:
    def source() -> Iterator[bytes]:
        yield DATA[:100_000]
        raise ZeroDivisionError("of the user")

    client = login()
    with pytest.raises(ZeroDivisionError, match=r"of the user"):
        client.upload_blob(source(), len(DATA), "text/plain")
    assert client.upload_blob(b"fine", 4, "text/plain")["size"] == 4


@pytest.mark.parametrize(
    "cid", ["", "bafkrei", CID.upper(), CID + "a", "bafyrei" + CID[7:], "../../etc/passwd", "Qm" + "a" * 44]
)
def test_what_is_no_cid_of_a_blob(login: Login, cid: str) -> None:
    client = login()
    for ask in (client.blob_url, client.blob_size, lambda did, cid: next(client.blob_chunks(did, cid))):
        with pytest.raises(AddressError, match=r"is no CID of a blob: one has 59 characters and begins with bafkrei"):
            ask(str(client.did), cid)


def test_a_blob_that_is_not_there(login: Login) -> None:
    client = login()
    with pytest.raises(XrpcError, match=r"com.atproto.sync.getBlob: the server answers 400 ") as caught:
        next(client.blob_chunks(str(client.did), CID))
    assert caught.value.nsid == "com.atproto.sync.getBlob"


def test_threads_send_and_fetch_at_the_same_time(login: Login) -> None:
    client = login()
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            data = hashlib.shake_256(bytes([number])).digest(300_000)
            blob = client.upload_blob([data[:1000], data[1000:]], len(data), "text/plain")
            client.put_record(THING, f"t{number}", {"blob": blob})
            assert b"".join(client.blob_chunks(str(client.did), blob["ref"]["$link"])) == data
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_forked_process_sends_and_fetches(login: Login) -> None:
    client = login()
    pinned(client)

    def child() -> str:
        assert b"".join(client.blob_chunks(str(client.did), CID)) == DATA
        return str(client.upload_blob(b"child", 5, "text/plain")["size"])

    assert in_fork(child) == "5"
    assert b"".join(client.blob_chunks(str(client.did), CID)) == DATA


# -- bad networks


def test_nothing_compressed_is_asked_for(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    pinned(client)
    list(client.blob_chunks(str(client.did), CID))
    asked = [request for request in proxy.requests("GET") if "getBlob" in request.path]
    assert [request.headers["accept-encoding"] for request in asked] == ["identity"]


def test_a_body_that_is_cut_is_fetched_to_its_end(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    pinned(client)
    proxy.set(cut_after=300_000)
    got = client.blob_chunks(str(client.did), CID)
    data = next(got)
    until = time.monotonic() + 60
    while proxy.requests("GET")[-1].sent < 299_000:  # up to there, and it is cut
        assert time.monotonic() < until
    proxy.set(cut_after=0)
    assert data + b"".join(got) == DATA
    assert [request for request in proxy.requests("GET") if "getBlob" in request.path][-1].range.startswith("bytes=")


def test_a_body_that_is_always_cut_at_the_same_place(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    pinned(client)
    proxy.set(cut_after=300_000)
    with pytest.raises(UnreachableError, match=r"the answer breaks off: .* \[http.*getBlob.*, at byte \d+\]") as caught:
        list(client.blob_chunks(str(client.did), CID))
    assert 100_000 < (caught.value.offset or 0) < 300_000


@pytest.mark.parametrize("spoil", ["flip_bit", "shorten"])
def test_other_bytes_than_the_cid_names(login: Login, proxy: FaultProxy, spoil: str) -> None:
    client = login(pds_url=proxy.endpoint)
    pinned(client)
    getattr(proxy, spoil)()
    with pytest.raises(IntegrityError, match=r"the bytes of the blob are not those that its CID names") as caught:
        list(client.blob_chunks(str(client.did), CID))
    assert caught.value.expected == CID
    assert str(caught.value.got).startswith("bafkrei")


@pytest.mark.parametrize("data", [DATA, pieces()], ids=["bytes", "list"])
@pytest.mark.parametrize("fault", ["503", "lost", "reset"])
def test_an_upload_that_fails_is_sent_again(login: Login, proxy: FaultProxy, data: Any, fault: str) -> None:
    client = login(pds_url=proxy.endpoint)
    if fault == "503":
        proxy.answer_next(503, path="uploadBlob")
    elif fault == "lost":
        proxy.lose_answers("POST")
    else:
        cut = iter([b""])

        class Source(list[bytes]):
            def __iter__(self) -> Iterator[bytes]:
                for number, piece in enumerate(super().__iter__()):
                    if number == 5 and next(cut, None) is not None:
                        proxy.reset()
                    yield piece

        data = Source(pieces())
    assert pinned(client, data)["ref"]["$link"] == CID
    assert b"".join(client.blob_chunks(str(client.did), CID)) == DATA


def test_what_can_be_read_once_is_sent_once(login: Login, proxy: FaultProxy) -> None:
    """Half of it sent again would be another blob; the caller knows how to begin anew."""
    client = login(pds_url=proxy.endpoint)
    proxy.lose_answers("POST")
    with pytest.raises(UnreachableError, match=r"whether it did what was asked is not known"):
        client.upload_blob(iter(pieces()), len(DATA), "text/plain")
    proxy.answer_next(500, path="uploadBlob")
    with pytest.raises(XrpcError, match=r"uploadBlob: the server answers 500"):
        client.upload_blob(iter(pieces()), len(DATA), "text/plain")
    assert len([request for request in proxy.requests("POST") if "uploadBlob" in request.path]) == 2


def test_a_blob_that_is_larger_than_the_server_takes(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    body = '{"error":"PayloadTooLarge","message":"request entity too large"}'
    proxy.answer_next(413, path="uploadBlob", body=body)
    with pytest.raises(
        XrpcError, match=r"uploadBlob: this is more than the server takes \(413\): request entity"
    ) as caught:
        client.upload_blob(DATA, len(DATA), "text/plain")
    assert caught.value.status == 413
    assert len([request for request in proxy.requests("POST") if "uploadBlob" in request.path]) == 1


# -- servers of strangers


@pytest.fixture
def stranger(rude: RudeServer) -> Iterator[Atmosphere]:
    """Reads blobs of an account whose server says what the test wants."""
    service = {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": rude.url()}
    key = {
        "id": "#atproto",
        "type": "Multikey",
        "publicKeyMultibase": "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF",
    }
    rude.json(f"/{BOB}", {"id": BOB, "service": [service], "verificationMethod": [key]})
    with Atmosphere(directory=rude.url(), allow_private=True) as client:
        yield client


GET = "/xrpc/com.atproto.sync.getBlob"


def test_a_large_blob_is_refused_before_it_is_read(stranger: Atmosphere, rude: RudeServer) -> None:
    """Of 2 GB, that never come."""
    rude.raw(GET, b"HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n")
    with pytest.raises(
        OversizeError, match=r"the blob has 2147483648 bytes or more, and 1000000 are the most that may be read"
    ):
        next(stranger.blob_chunks(BOB, CID, limit=1_000_000))


def test_a_large_blob_that_does_not_say_so_is_read_no_further(stranger: Atmosphere, rude: RudeServer) -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            sent += 0x10000

    rude.does(GET, endless)
    got: list[int] = []
    with pytest.raises(OversizeError):
        got.extend(len(chunk) for chunk in stranger.blob_chunks(BOB, CID, limit=1_000_000))
    assert sum(got) <= 1_000_000
    assert sent < 64 << 20


def test_a_size_that_is_not_said(stranger: Atmosphere, rude: RudeServer) -> None:
    rude.raw(GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    with pytest.raises(XrpcError, match=r"getBlob: the server does not say how long its answer is"):
        stranger.blob_size(BOB, CID)


def in_turn(rude: RudeServer, *answers: bytes) -> None:
    left = list(answers)
    rude.does(GET, lambda connection: connection.sendall(left.pop(0) if len(left) > 1 else left[0]))


def test_a_server_that_knows_ranges_is_asked_for_the_rest_only(stranger: Atmosphere, rude: RudeServer) -> None:
    half = len(DATA) // 2
    in_turn(
        rude,
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA[:half],
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes %d-%d/%d\r\n" % (half, len(DATA) - 1, len(DATA))
        + b"Content-Length: %d\r\n\r\n" % (len(DATA) - half)
        + DATA[half:],
    )
    assert b"".join(stranger.blob_chunks(BOB, CID, limit=len(DATA))) == DATA
    assert rude.requests[-1].headers["range"] == f"bytes={half}-"


@pytest.mark.parametrize("range_", [b"bytes 0-10/11", b"bytes 6-10/11", b"", b"nonsense"])
def test_another_part_than_was_asked_for(stranger: Atmosphere, rude: RudeServer, range_: bytes) -> None:
    in_turn(
        rude,
        b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst",
        b"HTTP/1.1 206 Partial\r\nContent-Range: " + range_ + b"\r\nContent-Length: 6\r\n\r\n bytes",
    )
    with pytest.raises(AtmosphereError, match=r"the server gives another part of the blob than it was asked for"):
        list(stranger.blob_chunks(BOB, CID))


def test_a_part_where_everything_was_asked_for(stranger: Atmosphere, rude: RudeServer) -> None:
    rude.raw(GET, b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-3/4\r\nContent-Length: 4\r\n\r\npart")
    with pytest.raises(AtmosphereError, match=r"the server gives another part of the blob than it was asked for"):
        next(stranger.blob_chunks(BOB, CID))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"blob": 1},
        {"blob": {"ref": "x", "size": 4}},
        {"blob": {"ref": {"$link": 5}, "size": 4}},
        {"blob": {"cid": CID}},
    ],
)
def test_answers_to_uploads_that_make_no_sense(login: Login, proxy: FaultProxy, answer: Any) -> None:
    client = login(pds_url=proxy.endpoint)
    proxy.answer_next(200, path="uploadBlob", body=json.dumps(answer))
    with pytest.raises(AtmosphereError, match=r"the server's answer to the upload makes no sense"):
        client.upload_blob(b"blob", 4, "text/plain")


@pytest.mark.parametrize("size", [4, 5])
def test_a_server_that_has_other_bytes_than_were_sent(login: Login, proxy: FaultProxy, size: int) -> None:
    client = login(pds_url=proxy.endpoint)
    cid = CID if size == 4 else str(Link.to_blob(b"blob"))
    proxy.answer_next(200, path="uploadBlob", body=json.dumps({"blob": {"ref": {"$link": cid}, "size": size}}))
    with pytest.raises(IntegrityError, match=r"the server has other bytes than were sent"):
        client.upload_blob(b"blob", 4, "text/plain")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({}, "the server's list of blobs makes no sense"),
        ({"cids": [1]}, "the server's list of blobs makes no sense"),
        ({"cids": [CID], "cursor": "same"}, "the server's list of blobs goes in a circle"),
    ],
)
def test_lists_of_blobs_that_make_no_sense(stranger: Atmosphere, rude: RudeServer, page: Any, message: str) -> None:
    rude.json("/xrpc/com.atproto.sync.listBlobs", page)
    with pytest.raises(AtmosphereError, match=message):
        list(stranger.list_blobs(BOB))


def test_a_limit_that_servers_do_not_say(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    proxy.answer_next(200, path="describeServer", body='{"did": "did:web:x", "availableUserDomains": []}')
    assert client.blob_limit == 5 << 20


# -- memory

PROGRAM = """
import hashlib, resource, sys
from atdata.atmosphere import Atmosphere

handle, password, pds, directory, size = *sys.argv[1:5], int(sys.argv[5])
piece = bytes(range(256)) * 4096
client = Atmosphere.login(handle, password, pds_url=pds, directory=directory, allow_private=True)
client.upload_blob(piece, len(piece), "text/plain")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
blob = client.upload_blob((piece for _ in range(size // len(piece))), size, "application/octet-stream")
client.put_record("com.example.thing", "pin", {"blob": blob})
assert sum(map(len, client.blob_chunks(client.did, blob["ref"]["$link"]))) == size
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
client.close()
"""


@pytest.mark.slow
def test_large_blobs_pass_through_in_little_memory(atproto: SharedNetwork) -> None:
    account = atproto.make_account()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            account.handle,
            account.password,
            account.pds,
            atproto.directory,
            str(50 << 20),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 << 10, "KiB, of which 1,024 are one piece"


def test_pieces_of_bytes_are_of_bounded_size() -> None:
    assert {len(piece) for piece in blobs.pieces_of(bytes(5 << 20))} == {1 << 20}
