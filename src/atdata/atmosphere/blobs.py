"""Blobs: bytes beside the records of an account, called by the digest of their content.

Methods: com.atproto.repo.uploadBlob, com.atproto.sync.getBlob, listBlobs. Format: https://atproto.com/specs/blob.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from atdata.atmosphere.syntax import shown
from atdata.atmosphere.xrpc import Xrpc
from atdata.cid import Link
from atdata.errors import AddressError, AtmosphereError, IntegrityError, UnreachableError

__all__ = ["blob_chunks", "blob_size", "check_cid", "list_blobs", "upload_blob"]

PIECE = 1 << 20
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


def upload_blob(server: Xrpc, data: bytes | Iterable[bytes], size: int, mime: str) -> dict[str, Any]:
    """Send bytes, as they come, and give the blob object to put into a record.

    Args:
        server: the account's.
        data: the bytes; what can be iterated over only once is sent only once, however the network is.
        size: how many they are.
        mime: their kind; the server may find another.

    Raises:
        IntegrityError: the server has other bytes than were sent, or `data` has another size.
        XrpcError: the server says no; with status 413, there are more bytes than it takes.
    """
    digest = hashlib.sha256()

    def content() -> Iterator[bytes]:
        nonlocal digest
        digest = hashlib.sha256()
        sent = 0
        for piece in _pieces(data):
            sent += len(piece)
            if sent > size:
                break
            digest.update(piece)
            yield piece
        if sent != size:
            more = "more" if sent > size else f"{sent}"
            raise IntegrityError(f"the blob was to have {size} bytes, but there are {more}", expected=size, got=sent)

    once = not isinstance(data, bytes | bytearray | memoryview) and iter(data) is data
    found = server.upload("com.atproto.repo.uploadBlob", content, size, mime, again=not once)
    blob = found.get("blob")
    ref = blob.get("ref") if isinstance(blob, dict) else None
    cid = ref.get("$link") if isinstance(ref, dict) else None
    if not isinstance(blob, dict) or not isinstance(cid, str):
        raise AtmosphereError("the server's answer to the upload makes no sense", url=server.base)
    expected = str(Link.to_sha256(digest.hexdigest()))
    if cid != expected or blob.get("size") != size:
        raise IntegrityError("the server has other bytes than were sent", url=server.base, expected=expected, got=cid)
    return blob


def _pieces(data: bytes | Iterable[bytes]) -> Iterator[bytes]:
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
        IntegrityError: the bytes are not those of the CID. Told at the end: use nothing before that.
        XrpcError: there is no such blob.
    """
    url = server.url("com.atproto.sync.getBlob", {"did": did, "cid": check_cid(cid)})
    digest, got, tries = hashlib.sha256(), 0, 0
    while True:
        begun = got
        try:
            for chunk in _from(server, did, cid, got, limit, url):
                got += len(chunk)
                digest.update(chunk)
                yield chunk
            break
        except UnreachableError as error:
            tries = 1 if got > begun else tries + 1
            if tries == _TRIES:
                raise error.at(offset=got) from None
    came = str(Link.to_sha256(digest.hexdigest()))
    if came != cid:
        raise IntegrityError(
            "the bytes of the blob are not those that its CID names",
            url=url,
            expected=cid,
            got=came,
        )


def _from(server: Xrpc, did: str, cid: str, start: int, limit: int | None, url: str) -> Iterator[bytes]:
    """The bytes from `start` on: few servers know ranges, so what came before may come again."""

    def check(size: int) -> None:
        if limit is not None and size > limit:
            raise AtmosphereError(f"the blob has {size} bytes, more than the {limit} that may be read", url=url)

    headers = {"range": f"bytes={start}-"} if start else {}
    with server.stream("com.atproto.sync.getBlob", {"did": did, "cid": cid}, headers) as reply:
        skip = start
        if reply.status == 206:
            if not reply.headers.get("content-range", "").startswith(f"bytes {start}-"):
                raise AtmosphereError("the server gives another part of the blob than it was asked for", url=url)
            skip = 0
        came = start - skip
        if reply.length is not None:
            check(came + reply.length)
        for chunk in reply.chunks:
            came += len(chunk)
            check(came)
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            if chunk:
                yield chunk


def blob_size(server: Xrpc, did: str, cid: str) -> int:
    """The bytes that a blob has, as its server says."""
    return server.length("com.atproto.sync.getBlob", {"did": did, "cid": check_cid(cid)})


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
