"""The proofs of the reference PDS: each record it has is proved as it shows it, each other one proved absent."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import cbrrr
import httpx
import pytest
from signed_repositories import COLLECTION, Key, tree

from atdata.atmosphere import Atmosphere, Identity, Record, Write
from atdata.atmosphere.car import read_car
from atdata.atmosphere.dagcbor import decode, from_json
from atdata.atmosphere.proof import prove
from atdata.atmosphere.xrpc import Xrpc
from atdata.cid import Link, generate_cid
from atdata.errors import ProofError
from atdata.testing import LocalNetwork
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
        shown = client.get_record(each.uri, proof=False)
        assert shown is not None
        assert proven.value == shown.value == record(n)
        assert proven.cid == shown.cid == each.cid == generate_cid(from_json(proven.value))
        assert client.get_record(each.uri) == shown
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
    assert client.get_record(uri(client, "key-7")) is None


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


# -- servers that do not tell the truth --------------------------------------------------------------------------------


@pytest.fixture
def alice(own_atproto: LocalNetwork) -> Iterator[Atmosphere]:
    account = own_atproto.make_account()
    with Atmosphere.login(
        account.handle, account.password, pds_url=account.pds, directory=own_atproto.directory, allow_private=True
    ) as client:
        yield client


@pytest.mark.slow
def test_a_server_that_changes_a_record_or_goes_back_in_time_is_found_out(
    own_atproto: LocalNetwork, alice: Atmosphere
) -> None:
    first = alice.put_record(COLLECTION, "self", {"$type": COLLECTION, "n": 1})
    assert alice.get_record(first.uri) is not None
    (file,) = own_atproto.folder.glob(f"pds0/actors/*/{alice.did}/store.sqlite")
    with (
        contextlib.closing(sqlite3.connect(file)) as repository,
        contextlib.closing(sqlite3.connect(":memory:")) as kept,
    ):
        repository.backup(kept)
        second = alice.put_record(COLLECTION, "self", {"$type": COLLECTION, "n": 2})
        assert alice.get_record(second.uri) == Record(second.uri, second.cid, {"$type": COLLECTION, "n": 2})

        forged = cbrrr.encode_dag_cbor({"$type": COLLECTION, "n": 3})
        with repository:
            repository.execute("UPDATE repo_block SET content = ? WHERE cid = ?", (forged, second.cid))
        shown = alice.get_record(second.uri, proof=False)
        assert shown is not None
        assert shown.value["n"] == 3, "the server shows what was forged"
        with pytest.raises(ProofError, match="a block that is not what it is called") as caught:
            alice.get_record(second.uri)
        assert caught.value.link == "block"
        assert caught.value.url == str(second.uri)

        kept.backup(repository)
    with Atmosphere(directory=own_atproto.directory, allow_private=True) as stranger:
        assert stranger.get_record(second.uri) == Record(first.uri, first.cid, {"$type": COLLECTION, "n": 1})
    with pytest.raises(ProofError, match="the repository was rolled back: its commit is of revision") as caught:
        alice.get_record(second.uri)
    assert caught.value.link == "rollback"


@pytest.mark.slow
def test_a_key_that_was_changed_is_learnt_and_not_believed_before(own_atproto: LocalNetwork, alice: Atmosphere) -> None:
    """What a client remembers of an account may be old; what the directory says now is what counts."""
    assert alice.did is not None
    written = alice.put_record(COLLECTION, "self", {"$type": COLLECTION, "n": 1})
    secret = int((own_atproto.folder / "pds0" / "rotation-key").read_text(), 16)

    def change_key(multikey: str) -> None:
        """An operation in the directory (https://web.plc.directory/spec/v0.1/did-plc), by the key for those."""
        with httpx.Client(base_url=own_atproto.directory, trust_env=False) as directory:
            log = directory.get(f"/{alice.did}/log/audit").json()
            last = log[-1]["operation"]
            operation = {name: value for name, value in last.items() if name != "sig"}
            operation["verificationMethods"] = {"atproto": f"did:key:{multikey}"}
            operation["prev"] = log[-1]["cid"]
            signature = Key("k256", secret).sign(cbrrr.encode_dag_cbor(operation))
            operation["sig"] = base64.urlsafe_b64encode(signature).decode().rstrip("=")
            directory.post(f"/{alice.did}", json=operation).raise_for_status()

    old = identity(alice).signing_key
    with Atmosphere(directory=own_atproto.directory, allow_private=True) as client:
        assert client.get_record(written.uri) is not None
        change_key(Key("p256").multikey)
        assert client.get_record(written.uri) is not None, "what it remembers still fits what the server signed"
    with Atmosphere(directory=own_atproto.directory, allow_private=True) as client:
        with pytest.raises(ProofError, match="is not signed as its DID document says") as caught:
            client.get_record(written.uri)
        assert caught.value.link == "signature"
        change_key(old)
        assert client.get_record(written.uri) is not None, "it asks the directory anew"
