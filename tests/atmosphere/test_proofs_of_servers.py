"""The proofs of the reference PDS: each record it has is proved as it shows it, each other one proved absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cbrrr
import pytest
from signed_repositories import COLLECTION, tree

from atdata.atmosphere import Atmosphere, Identity, Write
from atdata.atmosphere.car import read_car
from atdata.atmosphere.dagcbor import decode, from_json
from atdata.atmosphere.proof import prove
from atdata.atmosphere.xrpc import Xrpc
from atdata.cid import Link, generate_cid
from atdata.errors import ProofError
from servers.atproto import SharedNetwork

Login = Callable[..., Atmosphere]


@pytest.fixture
def login(atproto: SharedNetwork) -> Iterator[Login]:
    """A client of a new account."""
    made: list[Atmosphere] = []

    def new(pds: int = 0) -> Atmosphere:
        account = atproto.make_account(pds)
        made.append(
            Atmosphere.login(
                account.handle, account.password, pds_url=account.pds, directory=atproto.directory, allow_private=True
            )
        )
        return made[-1]

    yield new
    for client in made:
        client.close()


def identity(client: Atmosphere) -> Identity:
    assert client.identity is not None
    return client.identity


def proof(client: Atmosphere, rkey: str, collection: str = COLLECTION) -> bytes:
    account = identity(client)
    params = {"did": account.did, "collection": collection, "rkey": rkey}
    return Xrpc(account.pds, client.http).query_bytes("com.atproto.sync.getRecord", params)


def uri(client: Atmosphere, rkey: str) -> str:
    return f"at://{client.did}/{COLLECTION}/{rkey}"


def record(n: int) -> dict[str, Any]:
    return {
        "$type": COLLECTION,
        "name": f"dataset {n} · é",
        "n": n,
        "limits": [-(2**53) + 1, 2**53 - 1, -1, 0, 23, 24, 255, 256, 65535, 65536, 2**32],
        "bytes": [{"$bytes": "AAECAw"}, {"$bytes": ""}],
        "link": {"$link": str(Link.to_block(b"%d" % n))},
        "nothing": None,
        "yes": True,
        "deep": {"b": [[{}], {"aa": {}, "z": 1}]},
    }


def test_records_are_proved_as_the_server_shows_them(login: Login) -> None:
    client = login()
    absent = prove(proof(client, "none"), identity(client), uri(client, "none"))
    assert absent.value is None
    writes = [Write("create", COLLECTION, f"key-{n}", record(n)) for n in range(30)]
    written = client.apply_writes(writes)
    for n, each in enumerate(written):
        proven = prove(proof(client, f"key-{n}"), identity(client), each.uri, since=absent.rev)
        shown = client.get_record(each.uri)
        assert shown is not None
        assert proven.value == shown.value == record(n)
        assert proven.cid == shown.cid == each.cid == generate_cid(from_json(proven.value))
        assert proven.rev > absent.rev
        gone = prove(proof(client, f"key-{n}-"), identity(client), uri(client, f"key-{n}-"))
        assert gone.value is None
        # the same proof says nothing about another key than the one it was asked for, or what lies on its way
        if n:
            with pytest.raises(ProofError) as caught:
                prove(proof(client, f"key-{n}"), identity(client), uri(client, "key-0"))
            assert caught.value.link in ("path", "record")
    client.delete_record(COLLECTION, "key-7")
    assert prove(proof(client, "key-7"), identity(client), uri(client, "key-7")).value is None


def test_an_account_s_proof_is_none_of_another_s(login: Login) -> None:
    alice, bob = login(0), login(1)
    for client in (alice, bob):
        client.put_record(COLLECTION, "self", record(1))
    assert prove(proof(bob, "self"), identity(bob), uri(bob, "self")).value == record(1)
    with pytest.raises(ProofError) as caught:
        prove(proof(bob, "self"), identity(alice), uri(alice, "self"))
    assert caught.value.link == "commit"
    stolen = identity(alice)._replace(did=identity(bob).did)
    with pytest.raises(ProofError) as caught:
        prove(proof(bob, "self"), stolen, uri(bob, "self"))
    assert caught.value.link == "signature"


def test_a_flipped_byte_is_found_everywhere(login: Login) -> None:
    client = login()
    client.put_record(COLLECTION, "self", record(1))
    car = proof(client, "self")
    for at in range(len(car)):
        with pytest.raises(ProofError):
            prove(car[:at] + bytes([car[at] ^ 1 << at % 8]) + car[at + 1 :], identity(client), uri(client, "self"))


@pytest.mark.slow
def test_a_repository_of_5000_records(login: Login) -> None:
    """Each of many records, and what lies between them; and the tree is the one that these records have."""
    client = login()
    client.apply_writes([Write("create", COLLECTION, f"{n:05d}", {"$type": COLLECTION, "n": n}) for n in range(5000)])
    account = identity(client)
    depths = set()
    for n in range(0, 5000, 61):
        car = proof(client, f"{n:05d}")
        proven = prove(car, account, uri(client, f"{n:05d}"))
        assert proven.value == {"$type": COLLECTION, "n": n}
        depths.add(len(read_car(car).blocks))
        assert prove(proof(client, f"{n:05d}x"), account, uri(client, f"{n:05d}x")).value is None
    assert max(depths) >= 7
    listed = {
        f"{COLLECTION}/{each.uri.rkey}": Link.parse(each.cid).raw
        for each in client.list_records(account.did, COLLECTION)
    }
    root, blocks = read_car(proof(client, "00000"))
    assert len(listed) == 5000
    assert decode(blocks[root.raw])["data"].raw == tree(listed)[0]
    assert cbrrr.decode_dag_cbor(blocks[root.raw])["version"] == 3
