"""Proofs of records: what an account signed is proved, present or absent; anything else is refused, and why."""

from __future__ import annotations

import base64
import functools
import pickle
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_repositories import (
    CID,
    COLLECTION,
    DID,
    REV,
    Account,
    Block,
    Entry,
    Key,
    Repository,
    block,
    car,
    layer,
    node,
    varint,
)

from atdata.atmosphere.car import MAX_CAR
from atdata.atmosphere.proof import prove
from atdata.atmosphere.syntax import AtUri
from atdata.cid import Link
from atdata.errors import AddressError, AtmosphereError, ProofError

KEYS = {"k256": Key("k256", 7), "p256": Key("p256", 11)}


def path(n: int | str) -> str:
    return f"{COLLECTION}/{n}"


def record(n: int) -> dict[str, Any]:
    return {"$type": COLLECTION, "n": n, "digest": bytes([n % 256]), "blob": CID(Link.to_blob(b"%d" % n).raw)}


@functools.cache
def repository(count: int, curve: str = "k256") -> Repository:
    return Repository({path(n): record(n) for n in range(count)}, key=KEYS[curve])


def broken(link: str, car: bytes, account: Account, uri: str, **options: Any) -> str:
    """The message of the proof, which must break at that link."""
    with pytest.raises(ProofError) as caught:
        prove(car, account, uri, **options)
    assert caught.value.link == link, caught.value
    assert caught.value.url == uri
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.link, str(again)) == (link, str(caught.value))
    return str(caught.value)


# -- what holds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", KEYS)
@pytest.mark.parametrize("count", [1, 2, 10, 300])
def test_a_record_is_proved_and_given_as_json(curve: str, count: int) -> None:
    repo = repository(count, curve)
    for n in {0, count // 2, count - 1}:
        proven = prove(repo.car(path(n)), repo.account, repo.uri(path(n)))
        assert proven.value == {
            "$type": COLLECTION,
            "n": n,
            "digest": {"$bytes": base64.b64encode(bytes([n % 256])).decode().rstrip("=")},
            "blob": {"$link": str(Link.to_blob(b"%d" % n))},
        }
        assert (proven.cid, proven.rev) == (str(Link(repo.records[path(n)])), REV)


def test_the_commit_that_proved_it_is_told() -> None:
    repo = repository(3)
    blocks = repo.proof(path(1))
    assert prove(car(blocks), repo.account, repo.uri(path(1))).commit == str(Link(blocks[0][0]))


@pytest.mark.parametrize("curve", KEYS)
@pytest.mark.parametrize("count", [0, 1, 2, 10, 300])
def test_absence_is_proved(curve: str, count: int) -> None:
    repo = repository(count, curve)
    for name in ("-", "0x", "5-", "nothing", "zzz", "~"):
        for where in (path(name), f"a.b.c/{name}", f"z.y.x/{name}"):
            proven = prove(repo.car(where), repo.account, repo.uri(where))
            assert (proven.value, proven.cid, proven.rev) == (None, None, REV)


@given(
    st.sets(st.text("ab0~._-", min_size=1, max_size=4).filter(lambda t: t not in (".", "..")), max_size=60), st.data()
)
def test_any_record_of_any_repository_is_proved_or_proved_absent(names: set[str], data: st.DataObject) -> None:
    repo = Repository({path(name): record(len(name)) for name in names}, key=KEYS["p256"])
    asked = data.draw(st.sampled_from(sorted({*names, "absent", "a", "~~~~~"})))
    proven = prove(repo.car(path(asked)), repo.account, repo.uri(path(asked)))
    assert (proven.value is not None) == (asked in names)


def test_a_deep_tree_of_5000_records() -> None:
    repo = repository(5000)
    depths = set()
    for n in range(0, 5000, 97):
        for where in (path(n), path(f"{n}-absent")):
            depths.add(len(repo.path(where)))
            proven = prove(repo.car(where), repo.account, repo.uri(where))
            assert (proven.value is None) == where.endswith("absent")
    assert max(depths) >= 6


def test_nodes_without_keys_lie_on_the_way() -> None:
    """Two keys whose layers are far apart have nodes between them that only lead on."""
    far = next(path(n) for n in range(100_000) if layer(path(n)) == 4)
    low = next(path(f"{n}x") for n in range(100) if layer(path(f"{n}x")) == 0)
    repo = Repository({far: record(1), low: record(2)})
    assert len(repo.path(low)) == 5
    assert prove(repo.car(low), repo.account, repo.uri(low)).value is not None
    assert prove(repo.car(far), repo.account, repo.uri(far)).value is not None


def test_blocks_in_any_order_twice_and_strange_ones_prove_the_same() -> None:
    repo = repository(300)
    blocks = repo.proof(path(7))
    expected = prove(car(blocks), repo.account, repo.uri(path(7)))
    strange = [block({"more": n}) for n in range(5)] + [(Link.to_blob(b"plain").raw, b"plain")]
    other = Repository({path(7): {"forged": True}}, key=Key(), did="did:plc:other").proof(path(7))
    mixed = [*blocks, *strange, *blocks, *other, *repository(10).proof(path(7))]
    for seed in range(10):
        random.Random(seed).shuffle(mixed)
        assert prove(car(mixed, roots=[blocks[0][0]]), repo.account, repo.uri(path(7))) == expected


def test_the_key_may_be_a_did_key_and_the_uri_taken_apart() -> None:
    repo = repository(3)
    account = Account(DID, f"did:key:{repo.key.multikey}")
    assert prove(repo.car(path(1)), account, AtUri.parse(repo.uri(path(1)))).value is not None


def test_a_commit_may_have_fields_that_are_not_known_yet_when_they_are_signed() -> None:
    repo = repository(3)
    uri = repo.uri(path(1))
    assert prove(repo.car(path(1), prev=CID(repo.root), more=[1]), repo.account, uri).value is not None
    cid, data = block({**_decoded(repo.commit()), "more": [1]})
    blocks = [(cid, data), *repo.proof(path(1))[1:]]
    assert "what was signed was changed" in broken("signature", car(blocks), repo.account, uri)


def _decoded(block: Block) -> dict[str, Any]:
    import cbrrr

    found: dict[str, Any] = cbrrr.decode_dag_cbor(block[1], cid_ctor=CID)
    return found


# -- what was changed on the way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", KEYS)
@pytest.mark.parametrize("where", [path(3), path("3x")], ids=["present", "absent"])
def test_a_flipped_bit_is_found_at_every_position(curve: str, where: str) -> None:
    repo = repository(10, curve)
    whole = repo.car(where)
    links = set()
    for at in range(len(whole)):
        for bit in range(8) if at % 16 == 0 else (at % 8,):
            bad = bytearray(whole)
            bad[at] ^= 1 << bit
            with pytest.raises(ProofError) as caught:
                prove(bytes(bad), repo.account, repo.uri(where))
            links.add(caught.value.link)
    assert links == {"car", "block", "commit"}  # a root that was changed is a commit that is not there


def test_any_other_byte_is_found_in_head_and_commit() -> None:
    repo = repository(1)
    whole = repo.car(path(0))
    end = whole.index(repo.root, 200) + 40
    for at in range(0, end, 3):
        for byte in range(at % 5, 256, 5):
            if byte != whole[at]:
                with pytest.raises(ProofError):
                    prove(whole[:at] + bytes([byte]) + whole[at + 1 :], repo.account, repo.uri(path(0)))


def test_a_proof_cut_short_or_with_bytes_put_in_is_found_at_every_position() -> None:
    repo = repository(10)
    whole = repo.car(path(3))
    for at in range(len(whole)):
        with pytest.raises(ProofError):
            prove(whole[:at], repo.account, repo.uri(path(3)))
        with pytest.raises(ProofError):
            prove(whole[:at] + b"\x00" + whole[at:], repo.account, repo.uri(path(3)))
        with pytest.raises(ProofError):
            prove(whole[:at] + whole[at + 1 :], repo.account, repo.uri(path(3)))


def test_every_missing_block_is_named() -> None:
    repo = repository(5000)
    where = max((path(n) for n in range(0, 5000, 50)), key=lambda p: len(repo.path(p)))
    blocks = repo.proof(where)
    assert len(blocks) > 6
    for n, (cid, _) in enumerate(blocks):
        link = "commit" if n == 0 else "record" if n == len(blocks) - 1 else "path"
        rest = car(blocks[:n] + blocks[n + 1 :], roots=[blocks[0][0]])
        message = broken(link, rest, repo.account, repo.uri(where))
        assert (
            f"the proof lacks the {'node' if link == 'path' else 'commit' if link == 'commit' else 'record'}" in message
        )
        assert str(Link(cid)) in message
        assert "cut short" in message
        assert "Ask once more" in message


def test_a_tree_cut_short_is_no_proof_of_absence() -> None:
    repo = repository(300)
    where = max((path(f"{n}x") for n in range(300)), key=lambda p: len(repo.path(p)))
    blocks = repo.proof(where)
    message = broken("path", car(blocks[:-1]), repo.account, repo.uri(where))
    assert message.startswith(f"{where} is neither proved nor proved absent: the proof lacks the node")


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProofError):
        prove(data, repository(3).account, repository(3).uri(path(1)))


@functools.cache
def pool() -> list[Block]:
    """Blocks of a repository, of an older state of it, and of another with the same record."""
    now, before = repository(10), repository(9)
    foreign = Repository({path(3): {"forged": True}}, key=KEYS["p256"])
    return [*now.proof(path(3)), *now.proof(path("3x")), *before.proof(path(3)), *foreign.proof(path(3))]


@given(st.data())
def test_bytes_put_together_from_real_proofs_prove_only_what_was_signed(data: st.DataObject) -> None:
    """In any order and number, whole or with a byte changed."""
    now = repository(10)
    chosen = data.draw(st.lists(st.sampled_from(pool()), min_size=1))
    whole = bytearray(car(chosen))
    if data.draw(st.booleans()):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        proven = prove(bytes(whole), now.account, now.uri(path(3)))
    except ProofError:
        return
    assert proven.value == prove(now.car(path(3)), now.account, now.uri(path(3))).value


# -- the file ----------------------------------------------------------------------------------------------------------


def cars() -> dict[str, tuple[bytes, str]]:
    repo = repository(3)
    blocks = repo.proof(path(1))
    commit = blocks[0][0]
    good = car(blocks)
    head_size = good[0]
    rest = good[1 + head_size :]
    block_ = blocks[1][1]
    identity = b"\x01\x71\x00" + bytes([len(block_)]) + block_  # what it holds is its "hash"
    sha512 = b"\x01\x71\x13\x40" + bytes(64)
    v0 = b"\x12\x20" + commit[4:]
    return {
        "nothing": (b"", "no length of a block at byte 0"),
        "HTML": (b"<html><body>busy</body></html>", "its header would have 60 bytes"),
        "JSON": (b'{"error":"RecordNotFound"}' + b" " * 200, "its header is malformed"),
        "too large": (bytes(MAX_CAR + 1), f"it has {MAX_CAR + 1} bytes, where a proof has at most {MAX_CAR}"),
        "a header without an end": (b"\x80" * 100, "no length of a block at byte 0"),
        "a huge header": (varint(1 << 27) + good, "its header would have 134217728 bytes"),
        "a huge length": (good + b"\xff\xff\xff\x7f", "has 268435455 bytes, of which 0 are there: it was cut"),
        "a huger length": (good + b"\xff" * 9 + b"\x01", "no length of a block at byte"),
        "a length that goes on": (good + b"\xff" * 1000, "no length of a block at byte"),
        "a length in more bytes than it needs": (good[:1] + good[1:] + b"\xa4\x00" + bytes(36), "no length of a block"),
        "a header's length in more bytes": (bytes([head_size | 128, 0]) + good[1:], "no length of a block at byte 0"),
        "no length": (good + b"\x80", "no length of a block"),
        "a block of nothing": (good + b"\x00", "has no CIDv1 with SHA-256"),
        "half a CID": (good + varint(20) + commit[:20], "has no CIDv1 with SHA-256"),
        "an identity CID": (good + varint(len(identity)) + identity, "has no CIDv1 with SHA-256: 01710"),
        "an identity CID that is short": (good + varint(36) + b"\x01\x71\x00\x20" + bytes(32), "has no CIDv1"),
        "SHA-512": (good + varint(68) + sha512, "has no CIDv1 with SHA-256"),
        "CIDv0": (good + varint(36) + v0 + b"xx", "has no CIDv1 with SHA-256"),
        "version 2": (car(blocks, header={"version": 2, "roots": [CID(commit)]}), "its header is not one of version 1"),
        "version true": (car(blocks, header={"version": True, "roots": [CID(commit)]}), "is not one of version 1"),
        "no version": (car(blocks, header={"roots": [CID(commit)]}), "its header is not one of version 1"),
        "more in the header": (
            car(blocks, header={"version": 1, "roots": [CID(commit)], "x": 0}),
            "its header is not one of version 1",
        ),
        "a header that is a list": (car(blocks, header=[1, [CID(commit)]]), "its header is not one of version 1"),
        "no root": (car(blocks, roots=[]), "does not name one block"),
        "two roots": (car(blocks, roots=[commit, commit]), "does not name one block, the commit, as its root"),
        "a root that is text": (car(blocks, header={"version": 1, "roots": ["x"]}), "does not name one block"),
        "CAR version 2": (bytes.fromhex("0aa16776657273696f6e02") + rest, "its header is not one of version 1"),
        "keys out of order": (
            b"\x38" + b"\xa2\x67version\x01" + b"\x65roots\x81\xd8\x2a\x58\x25\x00" + commit[:] + rest,
            "its header is malformed",
        ),
    }


@pytest.mark.parametrize("name", cars())
def test_what_is_no_car_file_is_refused(name: str) -> None:
    data, message = cars()[name]
    repo = repository(3)
    found = broken("car", data, repo.account, repo.uri(path(1)))
    assert message in found
    assert found.startswith("the server's proof is no CAR file: ")
    assert "ask once more" in found


def test_a_block_that_is_not_what_it_is_called() -> None:
    repo = repository(3)
    blocks = repo.proof(path(1))
    forged = block({"forged": True})
    blocks[-1] = (blocks[-1][0], forged[1])
    message = broken("block", car(blocks), repo.account, repo.uri(path(1)))
    assert f"{Link(blocks[-1][0])} by name, {Link(forged[0])} by its bytes" in message


# -- the commit --------------------------------------------------------------------------------------------------------

COMMITS: dict[str, tuple[dict[str, Any], str]] = {
    "version 2": ({"version": 2}, "it is of version 2, where 3 is known"),
    "version 4": ({"version": 4}, "it is of version 4, where 3 is known"),
    "version true": ({"version": True}, "'version' is missing or of the wrong kind"),
    "no version": ({"version": ...}, "'version' is missing or of the wrong kind"),
    "no did": ({"did": ...}, "'did' is missing"),
    "did of bytes": ({"did": DID.encode()}, "'did' is missing or of the wrong kind"),
    "no data": ({"data": ...}, "'data' is missing"),
    "data as text": ({"data": "bafyrei"}, "'data' is missing or of the wrong kind"),
    "data of plain bytes": ({"data": CID(Link.to_blob(b"").raw)}, "'data' does not lead to a tree"),
    "no rev": ({"rev": ...}, "'rev' is missing"),
    "rev that is no TID": ({"rev": "zzzzzzzzzzzzz"}, "'rev' is no TID: 'zzzzzzzzzzzzz'"),
    "rev with a new line": ({"rev": REV + "\n"}, "'rev' is no TID"),
    "no prev": ({"prev": ...}, "'prev' is missing or of the wrong kind"),
    "prev as text": ({"prev": "x"}, "'prev' is missing or of the wrong kind"),
    "no sig": ({"sig": ...}, "'sig' is missing or of the wrong kind"),
    "sig as text": ({"sig": "x" * 64}, "'sig' is missing or of the wrong kind"),
}


@pytest.mark.parametrize("name", COMMITS)
def test_a_malformed_commit_is_refused_though_it_is_signed(name: str) -> None:
    changes, message = COMMITS[name]
    repo = repository(3)
    found = broken("commit", repo.car(path(1), **changes), repo.account, repo.uri(path(1)))
    assert message in found
    assert "the commit bafyrei" in found


BOMBS = [
    b"",
    b"\xff",
    b"\x81" * 100_000,
    b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x5b\x00\xff\xff\xff\xff\xff\xff\xff",
    b"\x7a\xff\xff\xff\xff",
    b"\xa1\x61e" * 100_000,
    b"\x82\x9a\x00\xff\xff\xff" * 1000,
    b"\xa2\x61e\x9a\x00\xff\xff\xff\xa0\x61l\xf6",
    b"\xa0\xa0",
    b"\xd8\x2a\x58\x25\x00" + bytes(36),
    bytes((1 << 20) + 1),
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:6].hex() or "nothing")
def test_blocks_made_to_harm_are_refused_in_every_place(bomb: bytes) -> None:
    repo = repository(3)
    uri = repo.uri(path(1))
    cid, _ = bad = block(bomb)
    assert "malformed" in broken("commit", car([bad]), repo.account, uri)
    assert "malformed" in broken("path", car([repo.commit(data=CID(cid)), bad]), repo.account, uri)
    top = block(node(None, [Entry(path(1), cid)]))
    message = broken("record", car([repo.commit(data=CID(top[0])), top, bad]), repo.account, uri)
    assert "is not in canonical form: " in message


def test_a_commit_of_another_account_is_refused() -> None:
    repo = repository(3)
    theirs = Repository({path(1): record(1)}, key=repo.key, did="did:plc:other")
    message = broken("commit", theirs.car(path(1)), repo.account, repo.uri(path(1)))
    assert f"the commit is one of 'did:plc:other', where one of {DID} was asked for" in message
    long = Repository({path(1): record(1)}, key=repo.key, did="did:plc:" + "\x1b[31m" * 1000)
    assert len(broken("commit", long.car(path(1)), repo.account, repo.uri(path(1)))) < 700


def test_a_record_of_another_account_cannot_be_asked_for() -> None:
    repo = repository(3)
    message = broken("commit", repo.car(path(1)), repo.account, f"at://did:plc:other/{path(1)}")
    assert message.startswith(f"a record of 'did:plc:other' cannot be proved by {DID}")
    with pytest.raises(AddressError):
        prove(repo.car(path(1)), repo.account, path(1))


def test_another_root_proves_nothing() -> None:
    repo = repository(3)
    blocks = repo.proof(path(1))
    for cid, _ in blocks[1:]:
        broken("commit", car(blocks, roots=[cid]), repo.account, repo.uri(path(1)))
    broken("commit", car(blocks, roots=[Link.to_block(b"elsewhere").raw]), repo.account, repo.uri(path(1)))


# -- the signature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", KEYS)
def test_a_signature_with_the_larger_s_is_refused(curve: str) -> None:
    repo = repository(3, curve)
    message = broken("signature", repo.car(path(1), high=True), repo.account, repo.uri(path(1)))
    assert "the signature has the larger of two possible S, which is not allowed" in message


@pytest.mark.parametrize("curve", KEYS)
def test_signatures_of_another_form_are_refused(curve: str) -> None:
    repo = repository(3, curve)
    order = repo.key.order.to_bytes(32, "big")
    one = (1).to_bytes(32, "big")
    good = _decoded(repo.commit())["sig"]
    for sig, message in {
        b"": "the signature has 0 bytes, not 64",
        good[:-1]: "the signature has 63 bytes, not 64",
        good + b"\0": "the signature has 65 bytes, not 64",
        bytes(64): "the signature's numbers are out of range",
        one + bytes(32): "the signature's numbers are out of range",
        bytes(32) + one: "the signature's numbers are out of range",
        order + one: "the signature's numbers are out of range",
        one + order: "the signature's numbers are out of range",
        b"\xff" * 64: "the signature's numbers are out of range",
        one + one: f"the signature is not of {repo.key.multikey}, or what was signed was changed",
        good[32:] + good[:32]: "the signature",
    }.items():
        found = broken("signature", repo.car(path(1), sig=sig), repo.account, repo.uri(path(1)))
        assert message in found
        assert f"the commit of {DID} is not signed as its DID document says" in found


@pytest.mark.parametrize("curve", KEYS)
def test_a_key_that_was_changed_proves_what_is_signed_since_and_nothing_before(curve: str) -> None:
    old = repository(3, curve)
    rotated = Repository({path(1): record(1)}, key=Key("p256"))
    uri = old.uri(path(1))
    for key in (Key("k256"), Key("p256")):
        message = broken("signature", old.car(path(1)), Account(DID, key.multikey), uri)
        assert "If the account changed its key a moment ago, resolve it anew" in message
    assert prove(rotated.car(path(1)), rotated.account, uri).value is not None
    broken("signature", rotated.car(path(1)), old.account, uri)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "'' is no public key"),
        ("did:key:", "is no public key: one begins with z"),
        ("did:web:example.org", "is no public key: one begins with z"),
        ("zQ3sh0", "is no public key"),  # 0 is no digit of base58
        ("z" * 200, "is no public key"),
        ("z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", "is neither a P-256 nor a secp256k1 key"),  # Ed25519
    ],
)
def test_a_key_that_is_none_is_refused(key: str, message: str) -> None:
    repo = repository(3)
    assert message in broken("signature", repo.car(path(1)), Account(DID, key), repo.uri(path(1)))


# -- the tree ----------------------------------------------------------------------------------------------------------


def at_layer(wanted: int, count: int, prefix: str = "") -> list[str]:
    """Paths of one layer, in order."""
    found = (path(f"{prefix}{n:06d}") for n in range(1_000_000))
    return [p for p, _ in zip((p for p in found if layer(p) == wanted), range(count), strict=False)]


LOW, MID, TOP = at_layer(0, 6), at_layer(1, 9), at_layer(2, 2)
FIRST, LAST = "a.b.c/x", path("~")  # before and after all the others


def trees() -> dict[str, tuple[str, list[Block], str]]:
    """Trees that no honest server makes: a key to look for, the nodes, the top one first, and what is wrong."""
    cid = block({"x": 1})[0]

    def leaf(*keys: str, **how: Any) -> Block:
        return block(node(None, [Entry(key, cid) for key in keys], **how))

    def above(left: Block | None, *entries: Entry) -> Block:
        return block(node(None if left is None else left[0], entries))

    def raw(**changes: Any) -> Block:
        one = {"p": 0, "k": LOW[0].encode(), "v": CID(cid), "t": None, **changes}
        return block({"l": None, "e": [{k: v for k, v in one.items() if v is not ...}]})

    a, b, empty = leaf(LOW[0]), leaf(LOW[-1]), leaf()
    first = above(a, Entry(MID[0], cid))
    return {
        "keys out of order": (FIRST, [leaf(LOW[1], LOW[0])], "are not in order"),
        "a key twice": (FIRST, [leaf(LOW[0], LOW[0])], "are not in order"),
        "a key of a higher layer": (FIRST, [leaf(LOW[0], MID[-1])], "is of layer 1, and here in layer 0"),
        "a key of a lower layer": (FIRST, [leaf(MID[0], LOW[-1])], "is of layer 0, and here in layer 1"),
        "less shared than could be": (
            FIRST,
            [leaf(*LOW[:3], share=-1)],
            "shares more with the one before than it says",
        ),
        "more shared than there is": (FIRST, [raw(p=1)], "a key would share 1 bytes with b''"),
        "shared by a negative number": (FIRST, [raw(p=-1)], "a key would share -1 bytes"),
        "shared by a huge number": (FIRST, [raw(p=2**63)], "a key would share 9223372036854775808 bytes"),
        "an empty key": (FIRST, [raw(k=b"")], "a key of 0 bytes"),
        "a huge key": (FIRST, [raw(k=b"x" * 1025)], "a key of 1025 bytes"),
        "a key as text": (FIRST, [raw(k=LOW[0])], "of another kind than it should be"),
        "no key": (FIRST, [raw(k=...)], "an entry is no map of `k`, `p`, `t` and `v`"),
        "no subtree": (FIRST, [raw(t=...)], "an entry is no map of `k`, `p`, `t` and `v`"),
        "more in an entry": (FIRST, [raw(x=1)], "an entry is no map of `k`, `p`, `t` and `v`"),
        "a value that is none": (FIRST, [raw(v=None)], "of another kind than it should be"),
        "a shared length that is false": (FIRST, [raw(p=False)], "of another kind than it should be"),
        "a subtree that is text": (FIRST, [raw(t="x")], "what should lead to another node does not"),
        "a subtree of plain bytes": (
            FIRST,
            [raw(t=CID(Link.to_blob(b"").raw))],
            "what should lead to another node does",
        ),
        "no entries": (FIRST, [block({"l": None})], "it is no map of `e` and `l`"),
        "no left": (FIRST, [block({"e": []})], "it is no map of `e` and `l`"),
        "more in a node": (FIRST, [block({"l": None, "e": [], "x": 1})], "it is no map of `e` and `l`"),
        "a node that is a list": (FIRST, [block([None, []])], "it is no map of `e` and `l`"),
        "entries that are no list": (FIRST, [block({"l": None, "e": {}})], "its entries are no list"),
        "an entry that is no map": (FIRST, [block({"l": None, "e": [1]})], "an entry is no map"),
        "too many entries": (FIRST, [block({"l": None, "e": [0] * 1001})], "its entries are no list of at most 1000"),
        "a top that only leads on": (FIRST, [above(first), first, a], "it has no keys, and is neither"),
        "an empty node below": (FIRST, [above(empty, Entry(MID[0], cid)), empty], "it has no keys, and is neither"),
        "a layer left out": (FIRST, [above(a, Entry(TOP[0], cid)), a], "is of layer 0, and here in layer 1"),
        "nodes below the lowest": (FIRST, [above(a, Entry(LOW[1], cid)), a], "it leads to nodes below layer 0"),
        "nodes below the lowest, on the right": (FIRST, [above(None, Entry(LOW[0], cid, b[0])), b], "below layer 0"),
        "a layer twice": (FIRST, [above(first, Entry(MID[1], cid)), first, a], "is of layer 1, and here in layer 0"),
        "keys too far right": (FIRST, [above(b, Entry(MID[0], cid)), b], "belong elsewhere in the tree"),
        "keys too far left": (LAST, [above(None, Entry(MID[-1], cid, a[0])), a], "belong elsewhere in the tree"),
        "the key above once more": (
            LAST,
            [above(None, Entry(MID[0], cid, first[0])), first],
            "is of layer 1, and here",
        ),
    }


@pytest.mark.parametrize("name", trees())
def test_a_tree_that_could_hide_a_record_proves_nothing_though_it_is_signed(name: str) -> None:
    where, nodes, message = trees()[name]
    repo = repository(3)
    found = broken("path", car([repo.commit(data=CID(nodes[0][0])), *nodes]), repo.account, repo.uri(where))
    assert message in found
    assert found.startswith(f"{where} is neither proved nor proved absent: the node bafyrei")
    assert "such a tree proves nothing" in found


def test_an_empty_tree_proves_that_there_is_nothing() -> None:
    repo = Repository({})
    assert len(repo.nodes) == 1
    assert prove(repo.car(path(1)), repo.account, repo.uri(path(1))).value is None


# -- the record --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [[1], "text", 5, None, b"bytes"])
def test_a_record_that_is_no_map_is_refused(value: Any) -> None:
    data = block(value) if not isinstance(value, bytes) else block([value])
    top = block(node(None, [Entry(path(1), data[0])]))
    repo = repository(3)
    blocks = [repo.commit(data=CID(top[0])), top, data]
    assert "is no map of fields" in broken("record", car(blocks), repo.account, repo.uri(path(1)))


def test_a_record_that_is_plain_bytes_is_refused() -> None:
    data = b"\xa0"
    cid = Link.to_blob(data).raw
    top = block(node(None, [Entry(path(1), cid)]))
    repo = repository(3)
    blocks = [repo.commit(data=CID(top[0])), top, (cid, data)]
    assert "is no map of fields" in broken("record", car(blocks), repo.account, repo.uri(path(1)))


# -- rolled back -------------------------------------------------------------------------------------------------------


def test_a_repository_that_was_rolled_back_is_refused() -> None:
    old, new = Repository({path(1): record(1)}, rev="3kabcdefghij2"), repository(3)
    uri = new.uri(path(1))
    account = old.account
    assert prove(old.car(path(1)), account, uri, since="3kabcdefghij2").rev == "3kabcdefghij2"
    assert prove(old.car(path(1)), account, uri, since="3kabcdefghii7").value is not None
    message = broken("rollback", old.car(path(1)), account, uri, since="3kabcdefghij3")
    assert "its commit is of revision 3kabcdefghij2, but 3kabcdefghij3 was seen before" in message


def test_a_revision_that_nobody_signed_is_no_rollback() -> None:
    """The signature comes first: a server cannot make a client believe in a rollback."""
    repo = repository(3)
    blocks = repo.proof(path(1))
    blocks[0] = block({**_decoded(blocks[0]), "rev": "2222222222222"})
    broken("signature", car(blocks), repo.account, repo.uri(path(1)), since=REV)


def test_a_proof_error_is_one_of_the_network() -> None:
    assert issubclass(ProofError, AtmosphereError)
