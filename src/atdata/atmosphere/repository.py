"""Records of a repository: read in pages, written in batches.

Methods: com.atproto.repo.listRecords, getRecord, putRecord, deleteRecord, applyWrites.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, Literal, NamedTuple

from atdata.atmosphere.car import MAX_CAR
from atdata.atmosphere.proof import Account, Proven, prove
from atdata.atmosphere.syntax import AtUri, is_nsid, is_rkey, shown, tid_at
from atdata.atmosphere.xrpc import Xrpc, as_json
from atdata.errors import AddressError, AtmosphereError, OversizeError, SwapError, UnreachableError, XrpcError

__all__ = [
    "Record",
    "Write",
    "Written",
    "apply_writes",
    "delete_record",
    "latest_commit",
    "list_records",
    "prove_record",
    "put_record",
    "read_record",
    "same",
]

PAGE = 100
MOST_WRITES = 200  # in one call; the reference PDS takes no more
MOST_BYTES = 600_000  # of JSON in one call; the reference PDS takes 1,000,000, and a commit may have 2,000,000
MOST_PAGE = 16 << 20  # bytes of a page of records; as objects they take several times that
_TRIES = 4


class Record(NamedTuple):
    """A record.

    Attributes:
        uri: its address, by DID.
        cid: the identifier of its content.
        value: the content, in the JSON form of the data model: links are `{"$link": cid}`, bytes `{"$bytes": base64}`.
    """

    uri: AtUri
    cid: str
    value: dict[str, Any]


class Write(NamedTuple):
    """One change of a repository.

    Attributes:
        action: `create` fails where there is such a record, `update` makes or replaces it, `delete` removes it.
        collection: the NSID of the kind of record.
        rkey: its key; with `create`, None has one made from the time.
        value: the content, unless it is deleted.
    """

    action: Literal["create", "update", "delete"]
    collection: str
    rkey: str | None = None
    value: Mapping[str, Any] | None = None


class Written(NamedTuple):
    """A record that was written.

    Attributes:
        uri: its address, by DID.
        cid: the identifier of its content; "" for one that was deleted.
    """

    uri: AtUri
    cid: str


def read_record(server: Xrpc, uri: AtUri) -> Record | None:
    """The record as its server says it is; None where it says that there is none."""
    try:
        found = server.query(
            "com.atproto.repo.getRecord", {"repo": uri.authority, "collection": uri.collection, "rkey": uri.rkey}
        )
    except XrpcError as error:
        if error.error == "RecordNotFound":
            return None
        raise
    record = _record(found, uri.authority, uri.collection, server)
    if record.uri != uri:
        raise AtmosphereError(f"the server gives {record.uri} when asked for {uri}", url=server.base)
    return record


def prove_record(server: Xrpc, account: Account, uri: AtUri, since: str | None = None) -> Proven | None:
    """The record with the proof that its account signed it, or signed none; None where the server only says so.

    Args:
        server: the account's.
        account: with the key that signs its repository.
        uri: of the record.
        since: a revision of the repository that was seen before.

    Raises:
        ProofError: the proof does not hold; see `atdata.atmosphere.proof.prove`.
    """
    params = {"did": uri.authority, "collection": uri.collection, "rkey": uri.rkey}
    try:
        car = server.query_bytes("com.atproto.sync.getRecord", params, limit=MAX_CAR)
    except XrpcError as error:
        if error.error == "RecordNotFound":
            return None
        raise
    return prove(car, account, uri, since=since)


def list_records(server: Xrpc, did: str, collection: str, *, reverse: bool = False) -> Iterator[Record]:
    """The records of one collection, by descending keys, or ascending ones with `reverse`; asked for page by page."""
    cursor: Any = ""
    seen: set[str] = set()
    most = PAGE
    while True:
        params: dict[str, Any] = {"repo": did, "collection": collection, "limit": most}
        if reverse:
            params["reverse"] = True
        if cursor:
            params["cursor"] = cursor
        try:
            page = server.query("com.atproto.repo.listRecords", params, limit=MOST_PAGE)
        except OversizeError:
            if most == 1:
                raise
            most //= 10  # they may be large
            continue
        records = page.get("records")
        if not isinstance(records, list):
            raise AtmosphereError("the server's list of records makes no sense", url=server.base)
        for each in records:
            yield _record(each, did, collection, server)
        cursor = page.get("cursor") or ""
        if not cursor or not records:
            return
        if not isinstance(cursor, str) or cursor in seen:
            raise AtmosphereError("the server's list of records goes in a circle", url=server.base)
        seen.add(cursor)


def put_record(
    server: Xrpc,
    did: str,
    collection: str,
    rkey: str,
    value: Mapping[str, Any],
    swap_record: str | EllipsisType | None = ...,
) -> Written:
    """Make or replace one record.

    Args:
        server: the account's.
        did: the account.
        collection: the NSID of the kind of record.
        rkey: its key.
        value: its content.
        swap_record: the CID of the content that is to be replaced; None where there may be no such record yet.

    Raises:
        SwapError: there is another content.
    """
    uri = _uri(did, Write("update", collection, rkey, value))
    body: dict[str, Any] = {"repo": did, "collection": collection, "rkey": rkey, "record": dict(value)}
    if swap_record is not ...:
        body["swapRecord"] = swap_record
    try:
        found = server.procedure("com.atproto.repo.putRecord", body, again=True)
    except SwapError:
        # After an answer that was lost, it may have been us.
        now = read_record(server, uri)
        if now is not None and same(now.value, {"$type": collection, **value}):
            return Written(uri, now.cid)
        raise
    return Written(uri, _text(found, "cid", server))


def delete_record(server: Xrpc, did: str, collection: str, rkey: str) -> None:
    """Remove one record; nothing happens where there is none."""
    _uri(did, Write("delete", collection, rkey))
    body = {"repo": did, "collection": collection, "rkey": rkey}
    server.procedure("com.atproto.repo.deleteRecord", body, again=True)


def apply_writes(server: Xrpc, did: str, writes: Sequence[Write], *, swap_commit: str | None = None) -> list[Written]:
    """Change many records, in as few calls as their number and size allow; each call is done whole or not at all.

    Args:
        server: the account's.
        did: the account.
        writes: the changes, in order.
        swap_commit: the CID of the repository's commit that must still be the latest.

    Raises:
        SwapError: the repository changed meanwhile, or there is a record already that was to be created.
        XrpcError: the server says no; a note on the error says how many changes were made before.
    """
    now, clock = time.time_ns() // 1000, secrets.randbelow(1024)
    named = [
        each._replace(rkey=tid_at(now + number, clock)) if each.rkey is None and each.action == "create" else each
        for number, each in enumerate(writes)
    ]
    uris = [_uri(did, each) for each in named]
    done: list[Written] = []
    for batch in _batches(named):
        try:
            written, commit = _apply(server, did, batch, uris[len(done) : len(done) + len(batch)], swap_commit)
        except AtmosphereError as error:
            if len(batch) < len(named):
                error.add_note(f"{len(done)} of {len(named)} changes were made before, and stay")
            raise
        done += written
        if swap_commit is not None:
            swap_commit = commit or latest_commit(server, did)
    return done


def _batches(writes: Sequence[Write]) -> Iterator[list[Write]]:
    batch: list[Write] = []
    size = 0
    for write in writes:
        length = 200 + len(write.collection) + len(write.rkey or "")
        if write.value is not None:
            length += len(as_json(write.value))
        if batch and (len(batch) == MOST_WRITES or size + length > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += length
    if batch:
        yield batch


def _apply(
    server: Xrpc, did: str, batch: Sequence[Write], uris: Sequence[AtUri], swap_commit: str | None
) -> tuple[list[Written], str | None]:
    """One call. Where it fails, or it is not known whether it was carried out, it is looked at what is there now."""
    sent: list[Write | None] = list(batch)
    for attempt in range(1, _TRIES + 1):
        body: dict[str, Any] = {"repo": did, "writes": [_operation(each) for each in sent if each is not None]}
        if swap_commit is not None:
            body["swapCommit"] = swap_commit
        try:
            found = server.procedure("com.atproto.repo.applyWrites", body)
            return _results(found, sent, uris, server)
        except (UnreachableError, XrpcError) as error:
            status = error.status if isinstance(error, XrpcError) else None
            refused = status is not None and status < 500
            if refused and attempt == 1:
                raise
            now = [read_record(server, uri) for uri in uris]
            written = _as_wished(batch, uris, now, server)
            if written is not None:
                return written, None
            fitted = [_fitted(*each) for each in zip(batch, now, strict=True)]
            # The reference PDS answers 500 to a change of a record that is not there; else the same would come again.
            if refused or attempt == _TRIES or (status == 500 and fitted == sent):
                raise
            sent = fitted
        time.sleep(random.uniform(0.1, 0.3) * 2 ** (attempt - 1))  # noqa: S311
    raise AssertionError


def _results(
    found: dict[str, Any], sent: Sequence[Write | None], uris: Sequence[AtUri], server: Xrpc
) -> tuple[list[Written], str | None]:
    """What was written, and the CID of the commit with it."""
    results = found.get("results")
    if not isinstance(results, list) or len(results) != sum(each is not None for each in sent):
        raise AtmosphereError("the server's answer to the changes makes no sense", url=server.base)
    left = iter(results)
    answers = [{} if each is None else next(left) for each in sent]
    cids = [each.get("cid", "") if isinstance(each, dict) else "" for each in answers]
    commit = found.get("commit")
    latest = commit.get("cid") if isinstance(commit, dict) else None
    return [Written(uri, str(cid)) for uri, cid in zip(uris, cids, strict=True)], latest


def _as_wished(
    batch: Sequence[Write], uris: Sequence[AtUri], now: Sequence[Record | None], server: Xrpc
) -> list[Written] | None:
    """What was written, where the repository is as the changes would have it; SwapError where it cannot be so."""
    written = []
    for write, uri, record in zip(batch, uris, now, strict=True):
        if write.value is None or record is None:
            fits = write.value is None and record is None
        else:
            fits = same(record.value, {"$type": write.collection, **write.value})
        if fits:
            written.append(Written(uri, "" if record is None else record.cid))
        elif write.action == "create" and record is not None:
            raise SwapError(
                f"there is a record at {uri} already, of other content; nothing was changed",
                nsid="com.atproto.repo.applyWrites",
                url=server.base,
            )
    return written if len(written) == len(batch) else None


def _fitted(write: Write, now: Record | None) -> Write | None:
    """The change as the server has to be told of it, which tells making and replacing apart."""
    if write.action == "update" and now is None:
        return write._replace(action="create")
    return None if write.action == "delete" and now is None else write


def _operation(write: Write) -> dict[str, Any]:
    operation = {
        "$type": f"com.atproto.repo.applyWrites#{write.action}",
        "collection": write.collection,
        "rkey": write.rkey,
    }
    return operation if write.action == "delete" else {**operation, "value": write.value}


def _uri(did: str, write: Write) -> AtUri:
    if write.action not in ("create", "update", "delete"):
        raise AddressError(f"{shown(write.action)} is no change of a record: create, update and delete are")
    if not is_nsid(write.collection):
        raise AddressError(f"{shown(write.collection)} is no collection, such as com.example.thing")
    if write.rkey is None or not is_rkey(write.rkey):
        raise AddressError(
            f"{shown(write.rkey)} is no record key: one has up to 512 of the characters A-Z a-z 0-9 . _ : ~ -"
        )
    if (write.value is None) != (write.action == "delete"):
        raise AddressError(
            f"a change to {write.action} {write.collection}/{write.rkey} has a value exactly when it leaves a record"
        )
    return AtUri(did, write.collection, write.rkey)


def same(now: Any, wished: Any) -> bool:
    """Whether two values are the same in the data model, however their JSON is written."""
    if isinstance(now, Mapping) and isinstance(wished, Mapping):
        if now.keys() != wished.keys():
            return False
        if now.keys() == {"$bytes"}:
            return str(now["$bytes"]).rstrip("=") == str(wished["$bytes"]).rstrip("=")
        return all(same(now[name], wished[name]) for name in now)
    if isinstance(now, list) and isinstance(wished, list | tuple):
        return len(now) == len(wished) and all(map(same, now, wished))
    return type(now) is type(wished) and bool(now == wished)


def _record(found: Any, did: str, collection: str, server: Xrpc) -> Record:
    """A record out of an answer, which has to be of the repository and collection that was asked for."""
    value = found.get("value") if isinstance(found, dict) else None
    if not isinstance(value, dict):
        raise AtmosphereError("the server gives something that is no record", url=server.base)
    uri = AtUri.parse(_text(found, "uri", server))
    if (uri.authority, uri.collection) != (did, collection):
        raise AtmosphereError(f"the server gives {uri} when asked for {collection} of {did}", url=server.base)
    return Record(uri, _text(found, "cid", server), value)


def _text(found: Mapping[str, Any], name: str, server: Xrpc) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise AtmosphereError(f"the server's answer has no {name}", url=server.base)
    return value


def latest_commit(server: Xrpc, did: str) -> str:
    """The CID of a repository's latest commit."""
    return _text(server.query("com.atproto.sync.getLatestCommit", {"did": did}), "cid", server)
