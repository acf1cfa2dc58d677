"""The proof of a record: that it is what its account signed, or that the account has no such record.

A server answers `com.atproto.sync.getRecord` with a chain of blocks, each linked to by the hash of its bytes:

    signing key ← DID document
     └─ signature of the commit ─→ top of the tree ─→ … ─→ node with the record's key ─→ record

No word of the server's is taken for any of it. What is not proved is the DID document, which is the resolver's matter,
and that there is no newer commit, which only the account's own server can know; `since` finds one that is older than
what was seen before.

Format: https://atproto.com/specs/repository (commit objects, version 3).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol

from atdata.atmosphere.car import read_car
from atdata.atmosphere.dagcbor import decode, to_json
from atdata.atmosphere.keys import parse_key
from atdata.atmosphere.mst import find
from atdata.atmosphere.syntax import AtUri, shown
from atdata.cid import Link, encode
from atdata.errors import ProofError

__all__ = ["Account", "Proven", "prove"]

_VERSION = 3
_REV = re.compile("[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}")  # a TID
_ASK = "Ask once more, and do not trust this server if that does not help"


class Account(Protocol):
    """Whose record it is: `atdata.atmosphere.identity.Identity`, or anything with its DID and key."""

    @property
    def did(self) -> str:
        """The account's DID."""
        ...

    @property
    def signing_key(self) -> str:
        """The key of its repository, as the DID document has it: a Multikey (`z…`), or `did:key:z…`."""
        ...


class Proven(NamedTuple):
    """What an account signed about one of its records.

    Attributes:
        value: the record in the AT Protocol's JSON; None where the account has no such record.
        cid: of the record; None where there is none.
        rev: the revision of the repository, a TID: later ones are greater.
        commit: the CID of the signed commit.
    """

    value: dict[str, Any] | None
    cid: str | None
    rev: str
    commit: str


def prove(car: bytes, identity: Account, uri: AtUri | str, *, since: str | None = None) -> Proven:
    """The record at `uri`, out of the proof that a server gave for it.

    Args:
        car: the answer of `com.atproto.sync.getRecord`.
        identity: the account, with the signing key of its DID document, as Multikey or `did:key`.
        uri: of the record, with the account's DID as its authority.
        since: a revision seen before; an older one is refused.

    Returns:
        The record, or that there is none: both are proved.

    Raises:
        ProofError: the proof does not hold; its `link` says where the chain broke, and its message what to do.
        AddressError: `uri` is no AT URI.
    """
    uri = AtUri.parse(uri) if isinstance(uri, str) else uri
    try:
        return _prove(car, identity, uri, since)
    except ProofError as error:
        error.at(url=str(uri))
        raise


def _prove(car: bytes, account: Account, uri: AtUri, since: str | None) -> Proven:
    if uri.authority != account.did:
        raise ProofError(f"a record of {shown(uri.authority)} cannot be proved by {account.did}", link="commit")
    root, blocks = read_car(car)
    commit = _commit(blocks, root, account.did)
    _signature(commit, account)
    rev = commit["rev"]
    if since is not None and rev < since:
        raise ProofError(
            f"the repository was rolled back: its commit is of revision {rev}, but {since} was seen before. The server "
            "holds back what the account has done since, or lost it: ask the account's owner",
            link="rollback",
        )
    link = find(blocks, commit["data"], f"{uri.collection}/{uri.rkey}".encode())
    if link is None:
        return Proven(None, None, rev, str(root))
    return Proven(_record(blocks, link), str(link), rev, str(root))


def _commit(blocks: dict[bytes, bytes], root: Link, did: str) -> dict[str, Any]:
    """The commit, if it is one of this account; its signature is still to be checked."""
    block = blocks.get(root.raw)
    if block is None:
        raise ProofError(f"the proof lacks the commit, {root}: it was cut short. {_ASK}", link="commit")
    try:
        commit = decode(block)
        if type(commit) is not dict:
            raise ValueError("it is no map")
        for field, kind in _FIELDS.items():
            if not isinstance(commit.get(field, ...), kind) or isinstance(commit[field], bool):
                raise ValueError(f"{field!r} is missing or of the wrong kind")
        if commit["version"] != _VERSION:
            raise ValueError(f"it is of version {commit['version']}, where {_VERSION} is known")
        if not commit["data"].is_block:
            raise ValueError("'data' does not lead to a tree")
        if _REV.fullmatch(commit["rev"]) is None:
            raise ValueError(f"'rev' is no TID: {shown(commit['rev'])}")
    except ValueError as error:
        raise ProofError(f"the commit {root} is malformed: {error}. {_ASK}", link="commit") from None
    if commit["did"] != did:
        raise ProofError(
            f"the commit is one of {shown(commit['did'])}, where one of {did} was asked for: the server gave another "
            f"account's proof. {_ASK}",
            link="commit",
        )
    return commit


_FIELDS: dict[str, Any] = {"did": str, "version": int, "data": Link, "rev": str, "prev": Link | None, "sig": bytes}


def _signature(commit: dict[str, Any], account: Account) -> None:
    signed = {field: value for field, value in commit.items() if field != "sig"}
    try:
        parse_key(account.signing_key).check(encode(signed), commit["sig"])
    except ValueError as error:
        raise ProofError(
            f"the commit of {account.did} is not signed as its DID document says: {error}. If the account changed its "
            "key a moment ago, resolve it anew; otherwise somebody else made this commit, and it is not to be trusted",
            link="signature",
        ) from None


def _record(blocks: dict[bytes, bytes], link: Link) -> dict[str, Any]:
    block = blocks.get(link.raw)
    if block is None:
        raise ProofError(f"the proof lacks the record itself, {link}: it was cut short. {_ASK}", link="record")
    try:
        value = decode(block) if link.is_block else None
    except ValueError as error:
        raise ProofError(f"the record {link} is not in canonical form: {error}", link="record") from None
    if type(value) is not dict:
        raise ProofError(f"the record {link} is no map of fields", link="record")
    return {key: to_json(item) for key, item in value.items()}
