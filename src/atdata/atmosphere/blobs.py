"""Blobs: bytes beside the records of an account, called by the digest of their content.

Methods: com.atproto.repo.uploadBlob, com.atproto.sync.getBlob, listBlobs. Format: https://atproto.com/specs/blob.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from atdata.atmosphere.http import Reply
from atdata.atmosphere.syntax import shown
from atdata.atmosphere.xrpc import Xrpc
from atdata.cid import Link
from atdata.errors import AddressError, AtmosphereError, IntegrityError, OversizeError, UnreachableError

__all__ = ["blob_chunks", "blob_size", "check_cid", "list_blobs", "upload_blob"]

PIECE = 1 << 20
_GET = "com.atproto.sync.getBlob"
_TRIES = 4


def check_cid(cid: str) -> str:
    """The CID of a blob, as it is.

    Raises:
        AddressError: it is not of the form of one: CIDv1 in base32, with SHA-256.
    """
    try:
        link = Link.parse(cid)
    except ValueError:
        link = None
    if link is None or link.is_block:
        raise AddressError(f"{shown(cid)} is no CID of a blob: one has 59 characters and begins with bafkrei")
    return cid


def upload_blob(
    server: Xrpc, data: bytes | Iterable[bytes], size: int, mime: str, *, sha256: str | None = None
) -> dict[str, Any]:
    """Send bytes, as they come, and give the blob object to put into a record.

    Args:
        server: the account's.
        data: the bytes; what can be iterated over only once is sent only once, however the network is.
        size: how many they are.
        mime: their kind; the server may find another.
        sha256: their digest, in hex, where it is known: they need not be hashed then.

    Raises:
        IntegrityError: the server has other bytes than were sent, or `data` has another size.
        XrpcError: the server says no; with status 413, there are more bytes than it takes.
    """
    digest = hashlib.sha256()

    def content() -> Iterator[bytes]:
        nonlocal digest
        digest = hashlib.sha256()
        sent = 0
        for piece in pieces_of(data):
            sent += len(piece)
            if sent > size:
                break
            if sha256 is None:
                digest.update(piece)
            yield piece
        if sent != size:
            more = "more" if sent > size else f"{sent}"
            raise IntegrityError(f"the blob was to have {size} bytes, but there are {more}", expected=size, got=sent)

    once = not isinstance(data, bytes | bytearray | memoryview) and iter(data) is data
    if once:  # a token that is over is found out with something that can be asked for twice
        server.query("com.atproto.server.getSession")
    found = server.upload("com.atproto.repo.uploadBlob", content, size, mime, again=not once)
    blob = found.get("blob")
    ref = blob.get("ref") if isinstance(blob, dict) else None
    cid = ref.get("$link") if isinstance(ref, dict) else None
    if not isinstance(blob, dict) or not isinstance(cid, str):
        raise AtmosphereError("the server's answer to the upload makes no sense", url=server.base)
    expected = str(Link.to_sha256(sha256 or digest.hexdigest()))
    if cid != expected or blob.get("size") != size:
        raise IntegrityError("the server has other bytes than were sent", url=server.base, expected=expected, got=cid)
    return blob


def pieces_of(data: bytes | Iterable[bytes]) -> Iterator[bytes]:
    if isinstance(data, bytes | bytearray | memoryview):
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            yield bytes(view[start : start + PIECE])
    else:
        yield from data


def blob_chunks(server: Xrpc, did: str, cid: str, *, limit: int | None = None) -> Iterator[bytes]:
    """The bytes of a blob as they come; what breaks off goes on where it stopped.

    Args:
        server: that keeps the blob.
        did: the account that it belongs to.
        cid: what it is called.
        limit: bytes; a blob that is said to be larger is refused before it is read.

    Raises:
        IntegrityError: the bytes are not those of the CID. That is known at the end: use nothing before.
        OversizeError: there are more than `limit` bytes.
        XrpcError: there is no such blob.
    """
    params = {"did": did, "cid": check_cid(cid)}
    url = server.url(_GET, params)
    digest, got, tries = hashlib.sha256(), 0, 0
    while True:
        # Few servers know ranges: what came already may come again.
        headers = {"range": f"bytes={got}-"} if got else {}
        begun = got
        with server.stream(_GET, params, headers) as reply:
            at = _start(reply, got, url)
            _within(limit, at + (reply.length or 0), url)
            try:
                for chunk in reply.chunks:
                    end = at + len(chunk)
                    _within(limit, end, url)
                    if end > got:
                        new = chunk[max(0, got - at) :]
                        got = end
                        digest.update(new)
                        yield new
                    at = end
                break
            except UnreachableError as error:
                tries = 1 if got > begun else tries + 1
                if tries == _TRIES:
                    raise error.at(offset=got) from None
    came = str(Link.to_sha256(digest.hexdigest()))
    if came != cid:
        raise IntegrityError("the bytes of the blob are not those that its CID names", url=url, expected=cid, got=came)


def _start(reply: Reply, wished: int, url: str) -> int:
    """The number of the first byte of an answer."""
    if reply.status == 200:
        return 0
    said = reply.headers.get("content-range", "")
    if not wished or not said.startswith(f"bytes {wished}-"):
        raise AtmosphereError("the server gives another part of the blob than it was asked for", url=url)
    return wished


def _within(limit: int | None, size: int, url: str) -> None:
    if limit is not None and size > limit:
        raise OversizeError(f"the blob has {size} bytes or more, and {limit} are the most that may be read", url=url)


def blob_size(server: Xrpc, did: str, cid: str) -> int:
    """The bytes that a blob has, as its server says."""
    return server.length(_GET, {"did": did, "cid": check_cid(cid)})


def list_blobs(server: Xrpc, did: str) -> Iterator[str]:
    """The CIDs of an account's blobs that records name, asked for page by page."""
    cursor: Any = ""
    seen: set[str] = set()
    while True:
        params: dict[str, Any] = {"did": did, "limit": 1000}
        if cursor:
            params["cursor"] = cursor
        page = server.query("com.atproto.sync.listBlobs", params)
        cids = page.get("cids")
        if not isinstance(cids, list) or not all(isinstance(cid, str) for cid in cids):
            raise AtmosphereError("the server's list of blobs makes no sense", url=server.base)
        yield from cids
        cursor = page.get("cursor") or ""
        if not cursor or not cids:
            return
        if not isinstance(cursor, str) or cursor in seen:
            raise AtmosphereError("the server's list of blobs goes in a circle", url=server.base)
        seen.add(cursor)
