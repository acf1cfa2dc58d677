"""Who somebody is: both directions have to agree, documents have to make sense, what is known is remembered a while."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dns.message
import dns.resolver
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.atmosphere import Atmosphere, Identity
from atdata.atmosphere.http import Http
from atdata.atmosphere.identity import Resolver, read_document
from atdata.errors import AddressError, AtmosphereError, IdentityError, OversizeError, UnreachableError, UnsafeUrlError
from servers.atproto import SharedNetwork
from servers.rude import RudeServer, TestAuthority

ALICE = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
KEY = "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF"
PDS = "AtprotoPersonalDataServer"
AsPublic = Callable[[dict[str, int]], Http]


def document(did: str = ALICE, **changes: Any) -> dict[str, Any]:
    return {
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": did,
        "alsoKnownAs": ["at://alice.test"],
        "verificationMethod": [
            {"id": f"{did}#atproto", "type": "Multikey", "controller": did, "publicKeyMultibase": KEY}
        ],
        "service": [{"id": "#atproto_pds", "type": PDS, "serviceEndpoint": "https://pds.example.org"}],
        **changes,
    }


class NameServer:
    """A name server (RFC 1035, by UDP) with TXT records of the test's choice; what it does not have does not exist."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.resolver = resolver_at("127.0.0.1", self._socket.getsockname()[1])

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                data, asker = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            if self.silent:
                continue
            query = dns.message.from_wire(data)
            name = query.question[0].name
            reply = dns.message.make_response(query)
            texts = self.records.get(name.to_text(omit_final_dot=True))
            if texts is None:
                reply.set_rcode(3)
            elif texts:
                quoted = ['"' + text + '"' for text in texts]
                reply.answer.append(dns.rrset.from_text_list(name, 0, "IN", "TXT", quoted))
            self._socket.sendto(reply.to_wire(), asker)


def resolver_at(host: str, port: int) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [host], port
    return resolver


@pytest.fixture
def names() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.close()


@pytest.fixture
def resolver(rude: RudeServer, names: NameServer) -> Iterator[Resolver]:
    """With a directory and a name server that say what the test wants."""
    http = Http(allow_private=True, tries=1)
    yield Resolver(directory=rude.url(), http=http, dns=names.resolver)
    http.close()


# -- a real network


def test_handles_and_dids_of_a_network(atproto: SharedNetwork) -> None:
    """By the network's own name server, as by the DNS of the world."""
    account = atproto.make_account(pds=1)
    host, _, port = atproto.nameserver.partition(":")
    http = Http(allow_private=True)
    resolver = Resolver(directory=atproto.directory, http=http, dns=resolver_at(host, int(port)))
    found = resolver.resolve(f"@{account.handle.upper()}")
    assert found == (account.did, account.handle, account.pds, found.signing_key)
    assert found.signing_key.startswith("zQ3s")
    assert resolver.resolve(account.did) == found
    http.close()


def test_an_account_on_another_server_is_found_by_asking_ones_own(atproto: SharedNetwork) -> None:
    alice, bob = atproto.make_account(), atproto.make_account(pds=1)
    with Atmosphere.login(
        alice.handle, alice.password, pds_url=alice.pds, directory=atproto.directory, allow_private=True
    ) as client:
        assert client.resolve(bob.handle)[:3] == (bob.did, bob.handle, bob.pds)
        with pytest.raises(IdentityError, match=rf"{alice.pds} knows no handle nobody.pds0.test"):
            client.resolve("nobody.pds0.test")


def test_a_handle_of_a_test_network_needs_to_be_told_where(
    atproto: SharedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = atproto.make_account()
    with Atmosphere(directory=atproto.directory, allow_private=True) as client:
        with pytest.raises(
            IdentityError, match=r"of a test network, which no DNS knows: say by handles_at=, or ATDATA_"
        ):
            client.resolve(account.handle)
        assert client.resolve(account.did).handle is None
    monkeypatch.setenv("ATDATA_HANDLES_AT", account.pds)
    monkeypatch.setenv("ATDATA_PLC_DIRECTORY", atproto.directory)
    monkeypatch.setenv("ATDATA_ALLOW_PRIVATE", "1")
    with Atmosphere() as client:
        assert client.resolve(account.handle).did == account.did


# -- from a handle to a DID


def test_a_handle_by_dns(resolver: Resolver, rude: RudeServer, names: NameServer) -> None:
    rude.json(f"/{ALICE}", document())
    names.records["_atproto.alice.test"] = ["v=spf1 -all", f"did={ALICE}"]
    expected = Identity(ALICE, "alice.test", "https://pds.example.org", KEY)
    assert resolver.resolve("alice.test") == resolver.resolve(ALICE) == expected


def test_a_long_text_in_parts_is_one(resolver: Resolver, rude: RudeServer, names: NameServer) -> None:
    rude.json(f"/{ALICE}", document())
    names.records["_atproto.alice.test"] = [f'did={ALICE[:9]}" "{ALICE[9:]}']
    assert resolver.resolve("alice.test").did == ALICE


def test_two_accounts_in_one_dns_record(resolver: Resolver, names: NameServer) -> None:
    names.records["_atproto.alice.test"] = [f"did={ALICE}", "did=did:plc:b"]
    with pytest.raises(
        IdentityError, match=rf"the DNS names several accounts for the handle alice.test: {ALICE}, did:plc:b"
    ):
        resolver.resolve("alice.test")


def test_what_the_dns_names_is_no_did(resolver: Resolver, names: NameServer) -> None:
    names.records["_atproto.alice.test"] = ["did=nonsense"]
    with pytest.raises(IdentityError, match=r"the handle alice.test leads to 'nonsense', which is no DID"):
        resolver.resolve("alice.test")


def test_a_handle_by_the_web(authority: TestAuthority, as_public: AsPublic, names: NameServer) -> None:
    with RudeServer(authority.server("alice.org", "plc.org", "www.alice.org")) as server:
        server.answer("/.well-known/atproto-did", 200, f"{ALICE}\n".encode())
        server.json(f"/{ALICE}", document(alsoKnownAs=["at://Alice.org", "at://second.org"]))
        resolver = Resolver(
            directory="https://plc.org",
            http=as_public({"alice.org": server.port, "plc.org": server.port}),
            dns=names.resolver,
        )
        expected = Identity(ALICE, "alice.org", "https://pds.example.org", KEY)
        assert resolver.resolve("alice.org") == resolver.resolve(ALICE) == expected
        # Also where another server of the same owner has it.
        server.redirect("/.well-known/atproto-did", "https://www.alice.org/did")
        server.answer("/did", 200, ALICE.encode())
        moved = Resolver(
            directory="https://plc.org", http=as_public({"www.alice.org": server.port}), dns=names.resolver
        )
        assert moved.resolve("alice.org").did == ALICE


def test_a_handle_that_leads_nowhere(authority: TestAuthority, as_public: AsPublic, names: NameServer) -> None:
    with RudeServer(authority.server("alice.org")) as server:
        http = as_public({"alice.org": server.port})
        resolver = Resolver(http=http, dns=names.resolver)
        nothing = "leads nowhere: there is no DNS record _atproto.alice.org, and its web server answers 404"
        with pytest.raises(IdentityError, match=nothing):
            resolver.resolve("alice.org")
        names.records["_atproto.alice.org"] = []
        with pytest.raises(IdentityError, match=r"there is no DNS record _atproto.alice.org"):
            resolver.resolve("alice.org")
        names.records["_atproto.alice.org"] = ["hello"]
        with pytest.raises(IdentityError, match=r"the DNS record _atproto.alice.org names no DID"):
            resolver.resolve("alice.org")
        server.answer("/.well-known/atproto-did", 200, b"<html>welcome")
        with pytest.raises(IdentityError, match=r"the handle alice.org leads to '<html>welcome', which is no DID"):
            resolver.resolve("alice.org")
        server.answer("/.well-known/atproto-did", 200, b"x" * 100_000)
        with pytest.raises(OversizeError):
            resolver.resolve("alice.org")
    with pytest.raises(
        IdentityError, match=r"leads nowhere: .* and no web server answers \(the server cannot be reached"
    ):
        resolver.resolve("alice.org")


def test_a_name_server_that_does_not_answer(
    authority: TestAuthority, as_public: AsPublic, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The web is the other way; where there is none either, the message tells of both."""
    monkeypatch.setattr("atdata.atmosphere.identity.DNS_SECONDS", 0.2)
    names.silent = True
    with RudeServer(authority.server("alice.org", "plc.org")) as server:
        http = as_public({"alice.org": server.port, "plc.org": server.port})
        resolver = Resolver(directory="https://plc.org", http=http, dns=names.resolver)
        with pytest.raises(
            IdentityError, match=r"the DNS cannot say what _atproto.alice.org is \(LifetimeTimeout\), and its web"
        ):
            resolver.resolve("alice.org")
        server.answer("/.well-known/atproto-did", 200, ALICE.encode())
        server.json(f"/{ALICE}", document(alsoKnownAs=["at://alice.org"]))
        assert resolver.resolve("alice.org").did == ALICE


def test_a_handle_on_a_private_address_is_not_asked(names: NameServer, rude: RudeServer) -> None:
    http = Http(lookup=lambda host, port: [("127.0.0.1", rude.port)])
    with pytest.raises(
        UnsafeUrlError, match=r"'alice.org' leads to 127.0.0.1, which is no address of the public internet"
    ):
        Resolver(http=http, dns=names.resolver).resolve("alice.org")
    assert rude.requests == []


# -- both directions


def test_a_handle_that_points_to_another_account(resolver: Resolver, rude: RudeServer, names: NameServer) -> None:
    """Whoever has a name can point it to anybody's DID; that account does not have it for that."""
    rude.json(f"/{ALICE}", document())
    names.records["_atproto.mallory.test"] = [f"did={ALICE}"]
    message = f"the handle mallory.test leads to {ALICE}, but the document of that account names alice.test"
    with pytest.raises(IdentityError, match=message):
        resolver.resolve("mallory.test")
    rude.json(f"/{ALICE}", document(alsoKnownAs=[]))
    with pytest.raises(IdentityError, match=r"but the document of that account names no handle"):
        resolver.resolve("mallory.test", fresh=True)


def test_an_account_that_claims_anothers_handle(resolver: Resolver, rude: RudeServer, names: NameServer) -> None:
    rude.json(f"/{ALICE}", document(alsoKnownAs=["at://famous.test"]))
    assert resolver.resolve(ALICE).handle is None, "the name leads nowhere"
    names.records["_atproto.famous.test"] = ["did=did:plc:famous"]
    assert resolver.resolve(ALICE).handle is None, "the name leads to somebody else"


def test_a_server_that_is_asked_for_handles_is_checked_too(rude: RudeServer) -> None:
    rude.json(f"/{ALICE}", document())
    rude.json("/xrpc/com.atproto.identity.resolveHandle?handle=mallory.test", {"did": ALICE})
    rude.json("/xrpc/com.atproto.identity.resolveHandle?handle=alice.test", {"did": ALICE})
    rude.json("/xrpc/com.atproto.identity.resolveHandle?handle=odd.test", {"did": 7})
    rude.json("/xrpc/com.atproto.identity.resolveHandle?handle=down.test", {}, 501)
    http = Http(allow_private=True, tries=1)
    resolver = Resolver(directory=rude.url(), http=http, handles_at=rude.url("/"))
    assert resolver.resolve("alice.test").did == ALICE
    with pytest.raises(IdentityError, match=r"but the document of that account names alice.test"):
        resolver.resolve("mallory.test")
    with pytest.raises(IdentityError, match=r"cannot say what the handle odd.test means: it answers 200"):
        resolver.resolve("odd.test")
    with pytest.raises(IdentityError, match=r"cannot say what the handle down.test means: it answers 501"):
        resolver.resolve("down.test")
    with pytest.raises(IdentityError, match=r"knows no handle none.test"):
        resolver.resolve("none.test")
    http.close()


def test_who_is_neither_a_handle_nor_a_did(resolver: Resolver) -> None:
    for text in ("alice", "", "did:plc", "at://alice.test", "alice@example.org"):
        with pytest.raises(AddressError, match=r"is no handle: one is a domain name, such as alice.example.org"):
            resolver.resolve(text)


# -- documents

BAD = [
    ({"id": "did:plc:other"}, f"the document of {ALICE} is that of 'did:plc:other'"),
    ({"id": None}, "is that of None"),
    ({"service": []}, r"names no server that keeps its data \(#atproto_pds\)"),
    ({"service": None}, "names no server that keeps its data"),
    ({"service": [{"id": "#atproto_labeler", "type": PDS, "serviceEndpoint": "https://l.org"}]}, "no server"),
    ({"service": [{"id": "#atproto_pds", "type": "Other", "serviceEndpoint": "https://l.org"}]}, "names no server"),
    ({"service": [{"id": "#atproto_pds", "type": PDS}]}, "names no URL of the server"),
    ({"service": [{"id": "#atproto_pds", "type": PDS, "serviceEndpoint": ["https://l.org"]}]}, "no URL"),
    ({"service": [{"id": "#atproto_pds", "type": PDS, "serviceEndpoint": "https://l.org/x?y"}]}, "more than a"),
    ({"verificationMethod": []}, r"names no key that signs its data \(#atproto\)"),
    ({"verificationMethod": [{"id": "#other", "publicKeyMultibase": KEY}]}, "names no key that signs its data"),
    ({"verificationMethod": [{"id": "#atproto", "publicKeyMultibase": 5}]}, "names no key that signs its data"),
    ({"verificationMethod": [{"id": "#atproto", "publicKeyJwk": {}}]}, "names no key that signs its data"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_documents_that_make_no_sense(
    resolver: Resolver, rude: RudeServer, changes: dict[str, Any], message: str
) -> None:
    rude.json(f"/{ALICE}", document(**changes))
    with pytest.raises(IdentityError, match=message):
        resolver.resolve(ALICE)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b"{", b'{"id": NaN}', b"[" * 60_000])
def test_documents_that_are_none(resolver: Resolver, rude: RudeServer, body: bytes) -> None:
    rude.answer(f"/{ALICE}", 200, body)
    with pytest.raises(IdentityError, match=rf"the document of {ALICE} is no JSON object"):
        resolver.resolve(ALICE)


def test_a_document_that_is_too_large(resolver: Resolver, rude: RudeServer) -> None:
    rude.json(f"/{ALICE}", document(more="x" * 100_000))
    with pytest.raises(OversizeError, match=r"the answer has more than the 65536 bytes that are read"):
        resolver.resolve(ALICE)


@pytest.mark.parametrize(
    "pds",
    [
        "http://pds.example.org",
        "file:///etc",
        "pipe:id",
        "https://u:p@pds.example.org",
        "https://",
        "javascript:alert(1)",
    ],
)
def test_a_document_whose_server_must_not_be_opened(pds: str) -> None:
    service = [{"id": "#atproto_pds", "type": PDS, "serviceEndpoint": pds}]
    with pytest.raises(UnsafeUrlError, match=r"is not opened"):
        read_document(ALICE, document(service=service), "u", allow_private=False)


def test_accounts_that_are_not_there(resolver: Resolver, rude: RudeServer) -> None:
    with pytest.raises(IdentityError, match=rf"{ALICE} is not known"):
        resolver.resolve(ALICE)
    rude.answer(f"/{ALICE}", 410)
    with pytest.raises(IdentityError, match=rf"{ALICE} is gone: its account was deleted"):
        resolver.resolve(ALICE)
    rude.answer(f"/{ALICE}", 500)
    with pytest.raises(UnreachableError, match=rf"the document of {ALICE} cannot be had: the server answers 500"):
        resolver.resolve(ALICE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20)
    | st.sampled_from([ALICE, "#atproto", "#atproto_pds", "https://a.org"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*document(), "type", "serviceEndpoint", "publicKeyMultibase"]), inner),
)  # fmt: skip


@given(JSON, st.dictionaries(st.sampled_from([*document()]), JSON))
def test_no_document_breaks_the_reader(value: Any, changes: dict[str, Any]) -> None:
    for each in (value, document(**changes)):
        try:
            found = read_document(ALICE, each, "u", allow_private=False)
        except AtmosphereError:
            continue
        assert found.pds.startswith("https://")


# -- other DIDs


@pytest.mark.parametrize("name", ["localhost%3A{port}", "localhost%3a{port}"])
def test_an_account_that_a_web_server_vouches_for(resolver: Resolver, rude: RudeServer, name: str) -> None:
    did = "did:web:" + name.format(port=rude.port)
    rude.json("/.well-known/did.json", document(did))
    assert resolver.resolve(did, handle=False) == (did, None, "https://pds.example.org", KEY)


def test_such_a_server_of_the_world_is_asked_by_https(authority: TestAuthority, as_public: AsPublic) -> None:
    with RudeServer(authority.server("alice.org")) as server:
        server.json("/.well-known/did.json", document("did:web:alice.org"))
        assert Resolver(http=as_public({"alice.org": server.port})).resolve("did:web:alice.org", handle=False).did


@pytest.mark.parametrize(
    "did",
    [
        "did:web:example.org:user:alice",
        "did:web:127.0.0.1",
        "did:web:alice.org%2F..%2F",
        "did:web:alice.org%40evil.org",
        "did:web:x%3A1%3A2",
    ],
)
def test_what_names_no_web_server(resolver: Resolver, did: str) -> None:
    with pytest.raises(IdentityError, match=r"names no web server; paths are not for this network"):
        resolver.resolve(did)


def test_localhost_is_for_networks_on_this_machine() -> None:
    with pytest.raises(IdentityError, match=r"names no web server"):
        Resolver().resolve("did:web:localhost%3A80")


def test_other_kinds_of_dids(resolver: Resolver) -> None:
    with pytest.raises(
        IdentityError, match=r"did:key:zQ3s is of a kind that cannot be looked up; did:plc and did:web can"
    ):
        resolver.resolve("did:key:zQ3s")


# -- what is remembered


def test_who_is_known_is_not_asked_for_again_for_a_while(
    resolver: Resolver, rude: RudeServer, names: NameServer
) -> None:
    rude.json(f"/{ALICE}", document())
    names.records["_atproto.alice.test"] = [f"did={ALICE}"]
    for _ in range(3):
        resolver.resolve("alice.test")
        resolver.resolve(ALICE)
    assert len(rude.requests) == 1
    resolver.resolve(ALICE, fresh=True)
    assert len(rude.requests) == 2
    resolver.forget(ALICE)
    resolver.resolve(ALICE)
    assert len(rude.requests) == 3
    resolver.ttl = 0.0
    resolver.forget(ALICE)
    resolver.resolve(ALICE)
    resolver.resolve(ALICE)
    assert len(rude.requests) == 5


def test_a_failure_is_not_remembered(resolver: Resolver, rude: RudeServer) -> None:
    with pytest.raises(IdentityError):
        resolver.resolve(ALICE)
    rude.json(f"/{ALICE}", document())
    assert resolver.resolve(ALICE).did == ALICE


def test_a_handle_that_is_newer_than_what_is_remembered(
    resolver: Resolver, rude: RudeServer, names: NameServer
) -> None:
    rude.json(f"/{ALICE}", document())
    resolver.resolve(ALICE)
    rude.json(f"/{ALICE}", document(alsoKnownAs=["at://renamed.test"]))
    names.records["_atproto.renamed.test"] = [f"did={ALICE}"]
    assert resolver.resolve("renamed.test").handle == "renamed.test"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, resolver: Resolver, rude: RudeServer) -> None:
    monkeypatch.setattr("atdata.atmosphere.identity.MOST_KEPT", 3)
    dids = [f"did:plc:{n}" for n in range(5)]
    for did in dids:
        rude.json(f"/{did}", document(did))
        resolver.resolve(did, handle=False)
    assert list(resolver._documents) == dids[2:]


def test_threads_share_what_is_remembered(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver, rude: RudeServer
) -> None:
    monkeypatch.setattr("atdata.atmosphere.identity.MOST_KEPT", 2)
    dids = [f"did:plc:{n}" for n in range(6)]
    for did in dids:
        rude.raw(f"/{did}", answer_json(document(did)))
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            for did in dids:
                assert resolver.resolve(did, handle=False).did == did
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def answer_json(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
