"""CAR files (version 1): the blocks that a server sends as the proof of a record, each held against its CID.

Format: https://ipld.io/specs/transport/car/carv1/. Blocks may come in any order, twice, or not belong to anything
(https://atproto.com/specs/repository says to ignore those); what a block says is nobody's word until it is linked to.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from atdata.atmosphere.dagcbor import decode
from atdata.cid import Link
from atdata.errors import ProofError

__all__ = ["MAX_CAR", "Car", "read_car"]

MAX_CAR = 4 << 20  # bytes: the largest record, and a path of larger nodes than any tree comes to by chance
_MAX_HEADER = 1000
_PREFIXES = (b"\x01\x71\x12\x20", b"\x01\x55\x12\x20")  # CIDv1 of DAG-CBOR, of plain bytes; SHA-256 of 32 bytes


class Car(NamedTuple):
    """What a CAR file holds.

    Attributes:
        root: the block that it is about.
        blocks: by the 36 bytes of their CIDs, which are right.
    """

    root: Link
    blocks: dict[bytes, bytes]


def read_car(data: bytes) -> Car:
    """Take a CAR file apart, and check the hash of every block.

    Args:
        data: the whole file, at most `MAX_CAR` bytes.

    Raises:
        ProofError: it is malformed or cut short (`link` is "car"), or a block is not what its CID says ("block").
    """
    if len(data) > MAX_CAR:
        raise _bad(f"it has {len(data)} bytes, where a proof has at most {MAX_CAR}")
    root, at = _header(data)
    blocks: dict[bytes, bytes] = {}
    sha256 = hashlib.sha256
    while at < len(data):
        start = at
        size, at = _varint(data, at)
        end = at + size
        if end > len(data):
            raise _bad(f"the block at byte {start} has {size} bytes, of which {len(data) - at} are there: it was cut")
        cid = data[at : at + 36]
        if size < 36 or cid[:4] not in _PREFIXES:
            raise _bad(f"the block at byte {start} has no CIDv1 with SHA-256: {cid[:8].hex()}…")
        block = data[at + 36 : end]
        if sha256(block).digest() != cid[4:]:
            found = Link(cid[:4] + sha256(block).digest())
            raise ProofError(
                f"the server's proof has a block that is not what it is called: at byte {start}, {Link(cid)} by name, "
                f"{found} by its bytes. It was damaged on the way, or forged: ask once more, and do not trust this "
                "server if that does not help",
                link="block",
            )
        blocks[cid] = block
        at = end
    return Car(root, blocks)


def _header(data: bytes) -> tuple[Link, int]:
    """The root, and where the blocks begin."""
    size, at = _varint(data, 0)
    end = at + size
    if size > _MAX_HEADER or end > len(data):
        raise _bad(f"its header would have {size} bytes")
    try:
        header = decode(data[at:end])
    except ValueError as error:
        raise _bad(f"its header is malformed ({error})") from None
    version, roots = (header.get("version"), header.get("roots")) if type(header) is dict else (None, None)
    if type(version) is not int or version != 1 or len(header) != 2:
        raise _bad("its header is not one of version 1")
    if type(roots) is not list or len(roots) != 1 or type(roots[0]) is not Link:
        raise _bad("its header does not name one block, the commit, as its root")
    return roots[0], end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number of at most four bytes, and where it ends."""
    number = 0
    for i, byte in enumerate(data[at : at + 4]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            if byte == 0 and i:
                break  # longer than it need be
            return number, at + i + 1
    raise _bad(f"no length of a block at byte {at}")


def _bad(what: str) -> ProofError:
    return ProofError(
        f"the server's proof is no CAR file: {what}. It was damaged on the way, or the server does not give proofs "
        "(com.atproto.sync.getRecord): ask once more",
        link="car",
    )
