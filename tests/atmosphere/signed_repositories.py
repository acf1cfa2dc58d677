"""Repositories with a key of their own, made without any of atdata's code, and made wrong on purpose.

And without cbrrr, so that benchmarks can use them where no compiler builds it; `encode` is held to it in the tests of
DAG-CBOR. The trees are built from the definition (https://atproto.com/specs/repository): a key's layer is told by its
hash, and every node holds the keys of one layer between two keys of a higher one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
REV = "3kabcdefghij2"
COLLECTION = "science.alt.dataset.entry"
CURVES: dict[str, tuple[type[ec.EllipticCurve], bytes, int]] = {
    "p256": (
        ec.SECP256R1,
        b"\x80\x24",
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    "k256": (
        ec.SECP256K1,
        b"\xe7\x01",
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    ),
}
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

Block = tuple[bytes, bytes]  # CID, bytes


@dataclass(frozen=True)
class CID:
    """A link, by the bytes of its CID."""

    cid_bytes: bytes


def encode(value: Any) -> bytes:
    """DAG-CBOR (https://ipld.io/specs/codecs/dag-cbor/spec/)."""
    match value:
        case None | True | False:
            return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case float():
            return struct.pack(">Bd", 0xFB, value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case list():
            return _head(4, len(value)) + b"".join(map(encode, value))
        case dict():
            pairs = sorted((len(key.encode()), encode(key) + encode(item)) for key, item in value.items())
            return _head(5, len(value)) + b"".join(pair for _, pair in pairs)
        case CID():
            return _head(6, 42) + _head(2, 1 + len(value.cid_bytes)) + b"\0" + value.cid_bytes
    raise TypeError(f"no repository has a {type(value).__name__}")


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | info]) + number.to_bytes(size, "big")
    raise ValueError(f"{number} does not fit into 64 bits")


def base58(data: bytes) -> str:
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


class Key:
    """A private key, which signs as the network asks, or otherwise."""

    def __init__(self, curve: str = "k256", secret: int | None = None) -> None:
        self.curve = curve
        kind, self.codec, self.order = CURVES[curve]
        self.private = ec.derive_private_key(secret, kind()) if secret else ec.generate_private_key(kind())

    @property
    def point(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    @property
    def multikey(self) -> str:
        return "z" + base58(self.codec + self.point)

    def sign(self, data: bytes, *, high: bool = False) -> bytes:
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
        if (s > self.order // 2) != high:
            s = self.order - s
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Account(NamedTuple):
    did: str
    signing_key: str


def block(value: Any) -> Block:
    data = value if isinstance(value, bytes) else encode(value)
    return b"\x01\x71\x12\x20" + hashlib.sha256(data).digest(), data


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def car(blocks: Iterable[Block], *, roots: list[bytes] | None = None, header: Any = None) -> bytes:
    """A CAR file; its root is the first block, unless others are given."""
    blocks = list(blocks)
    roots = [blocks[0][0]] if roots is None else roots
    head = encode(header or {"version": 1, "roots": [CID(root) for root in roots]})
    return varint(len(head)) + head + b"".join(varint(len(c) + len(data)) + c + data for c, data in blocks)


def layer(key: str) -> int:
    bits = bin(int.from_bytes(b"\1" + hashlib.sha256(key.encode()).digest(), "big"))[3:]
    return (len(bits) - len(bits.lstrip("0"))) // 2


class Entry(NamedTuple):
    key: str
    value: bytes
    right: bytes | None = None


def node(left: bytes | None, entries: Iterable[Entry], *, share: int = 0) -> dict[str, Any]:
    """A node; `share` makes keys share so many bytes more (or fewer) than they do."""
    found, before = [], ""
    for key, value, right in entries:
        n = 0
        while n < min(len(before), len(key)) and before[n] == key[n]:
            n += 1
        n = max(0, n + share) if before else n
        found.append(
            {"p": n, "k": key.encode()[n:], "v": CID(value), "t": None if right is None else CID(right)},
        )
        before = key
    return {"l": None if left is None else CID(left), "e": found}


Shape = tuple[bytes | None, list[Entry]]  # what a node has: the node on its left, and its entries


def tree(records: dict[str, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    """The root and all nodes of the one tree that holds these records, given by their CIDs."""
    root, nodes, _ = shaped(records)
    return root, nodes


def shaped(records: dict[str, bytes]) -> tuple[bytes, dict[bytes, bytes], dict[bytes, Shape]]:
    """The same, and what each node has."""
    nodes: dict[bytes, bytes] = {}
    shapes: dict[bytes, Shape] = {}

    def build(keys: list[str], at: int) -> bytes | None:
        if not keys:
            return None
        groups: list[list[str]] = [[]]
        here = []
        for key in keys:
            if layer(key) == at:
                here.append(key)
                groups.append([])
            else:
                groups[-1].append(key)
        below = [build(group, at - 1) for group in groups]
        shape = (below[0], [Entry(k, records[k], b) for k, b in zip(here, below[1:], strict=True)])
        cid, data = block(node(*shape))
        nodes[cid], shapes[cid] = data, shape
        return cid

    if not records:
        cid, data = block(node(None, []))
        return cid, {cid: data}, {cid: (None, [])}
    root = build(sorted(records), max(map(layer, records)))
    assert root is not None
    return root, nodes, shapes


class Repository:
    """An account's records, signed.

    Args:
        records: by path, `collection/rkey`.
    """

    def __init__(self, records: dict[str, Any], *, key: Key | None = None, did: str = DID, rev: str = REV) -> None:
        self.key = key or Key()
        self.did, self.rev = did, rev
        made = {path: block(value) for path, value in records.items()}
        self.records = {path: cid for path, (cid, _) in made.items()}
        self.root, self.nodes, self.shapes = shaped(self.records)
        self.blocks = {**dict(made.values()), **self.nodes}

    @property
    def account(self) -> Account:
        return Account(self.did, self.key.multikey)

    def uri(self, path: str) -> str:
        return f"at://{self.did}/{path}"

    def commit(self, *, key: Key | None = None, high: bool = False, sig: Any = None, **changes: Any) -> Block:
        """The signed commit, with some fields changed; those that are `...` are left out."""
        whole = {"did": self.did, "version": 3, "data": CID(self.root), "rev": self.rev, "prev": None, **changes}
        unsigned = {field: value for field, value in whole.items() if value is not ...}
        sig = (key or self.key).sign(encode(unsigned), high=high) if sig is None else sig
        return block(unsigned if sig is ... else {**unsigned, "sig": sig})

    def path(self, path: str) -> list[Block]:
        """The nodes from the top to where the record is, or would be."""
        found: list[Block] = []
        cid: bytes | None = self.root
        while cid is not None:
            found.append((cid, self.blocks[cid]))
            cid = self.below(cid, path)
        return found

    def below(self, cid: bytes, path: str) -> bytes | None:
        """The node under another on the way to a record; None where the way ends."""
        left, entries = self.shapes[cid]
        for key, _, right in entries:
            if key == path:
                return None
            if key > path:
                break
            left = right
        return left

    def proof(self, path: str, **commit: Any) -> list[Block]:
        """The blocks that a server answers with: the commit, the nodes, the record."""
        record = self.records.get(path)
        return [
            self.commit(**commit),
            *self.path(path),
            *([] if record is None else [(record, self.blocks[record])]),
        ]

    def car(self, path: str, **commit: Any) -> bytes:
        return car(self.proof(path, **commit))
