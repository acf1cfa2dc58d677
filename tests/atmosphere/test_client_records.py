"""Records of a real network: written, read, listed and removed, by their account and as anybody may."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.atmosphere import Atmosphere, AtUri, Record, Write, repository
from atdata.errors import (
    AddressError,
    AtmosphereError,
    LoginError,
    OversizeError,
    RecordError,
    SwapError,
    XrpcError,
)
from atdata.testing import FaultProxy
from forking import in_fork
from servers.atproto import SharedNetwork
from servers.rude import RudeServer

Login = Callable[..., Atmosphere]
THING = "com.example.thing"
VALUE = {
    "$type": THING,
    "text": "äöü 💩 \u0000 \u2028",
    "number": 2**53 - 1,
    "negative": -(2**53 - 1),
    "yes": True,
    "none": None,
    "list": [1, [2, {"three": 3}], []],
    "bytes": {"$bytes": "AAEC"},
    "link": {"$link": "bafyreidnzhwcbncg3avwjjao5o6wx4zhnksmxhdo6w5iaqupexnmzdlb54"},
    "zz": 1,
    "a": {},
}


def uri(client: Atmosphere, rkey: str) -> AtUri:
    return AtUri(str(client.did), THING, rkey)


@pytest.fixture
def proxy(atproto: SharedNetwork) -> Iterator[FaultProxy]:
    """A bad network before the first PDS: login(pds_url=proxy.endpoint)."""
    with FaultProxy(atproto.pds[0]) as proxy:
        yield proxy


def called(proxy: FaultProxy, nsid: str) -> list[Any]:
    return [request for request in proxy.requests() if f"/xrpc/{nsid}" in request.path]


def test_a_record_is_written_read_replaced_and_removed(login: Login) -> None:
    client = login()
    written = client.put_record(THING, "a", VALUE)
    assert written.uri == uri(client, "a")
    for proof in (True, False):
        found = client.get_record(written.uri, proof=proof)
        assert found == Record(written.uri, written.cid, VALUE)
        assert client.get_record(f"at://{client.handle}/{THING}/a", proof=proof) == found
    client.put_record(THING, "a", {"n": 2})
    assert client.get_record(written.uri) == (
        uri(client, "a"),
        client.get_record(uri(client, "a")).cid,
        {"$type": THING, "n": 2},
    )  # type: ignore[union-attr]
    client.delete_record(THING, "a")
    client.delete_record(THING, "a")  # again: nothing happens
    for proof in (True, False):
        assert client.get_record(written.uri, proof=proof) is None


def test_anybody_reads_on_whichever_server_it_is(login: Login, atproto: SharedNetwork) -> None:
    alice, bob = login(0), login(1)
    for client in (alice, bob):
        client.put_record(THING, "mine", {"by": client.handle})
    with Atmosphere(directory=atproto.directory, allow_private=True, handles_at=atproto.pds[0]) as anybody:
        for client in (alice, bob):
            found = anybody.get_record(f"at://{client.handle}/{THING}/mine")
            assert found is not None
            assert found.value["by"] == client.handle
            assert [each.value["by"] for each in anybody.list_records(str(client.handle), THING)] == [client.handle]
        assert (anybody.did, anybody.handle, anybody.identity) == (None, None, None)
        for write in (
            lambda: anybody.put_record(THING, "a", {}),
            lambda: anybody.delete_record(THING, "a"),
            lambda: anybody.apply_writes([Write("delete", THING, "a")]),
            lambda: anybody.upload_blob(b"x", 1, "text/plain"),
            lambda: anybody.blob_limit,
        ):
            with pytest.raises(LoginError, match=r"nobody is logged in: use Atmosphere.login"):
                write()


@pytest.mark.slow
def test_many_changes_are_few_calls_in_order(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    made = client.apply_writes([Write("create", THING, None, {"n": n}) for n in range(450)])
    assert [len(request.path) > 0 and request.status for request in called(proxy, "com.atproto.repo.applyWrites")] == [
        200
    ] * 3
    assert len({each.uri.rkey for each in made}) == 450
    listed = list(client.list_records(str(client.did), THING, reverse=True))
    assert [each.value["n"] for each in listed] == list(range(450)), "keys that are made up sort as the writes"
    assert [(each.uri, each.cid) for each in listed] == [(each.uri, each.cid) for each in made]
    assert [each.value["n"] for each in client.list_records(str(client.did), THING)] == list(range(449, -1, -1))
    proxy.forget()
    changed = client.apply_writes(
        [
            Write("update", THING, made[0].uri.rkey, {"n": -1}),
            Write("delete", THING, made[1].uri.rkey),
            Write("create", THING, "new", {"n": 1000}),
        ]
    )
    assert [each.uri.rkey for each in changed] == [made[0].uri.rkey, made[1].uri.rkey, "new"]
    assert changed[1].cid == ""
    assert len(called(proxy, "com.atproto.repo.applyWrites")) == 1
    assert len(list(client.list_records(str(client.did), THING))) == 450
    assert client.apply_writes([]) == []
    assert len(called(proxy, "com.atproto.repo.applyWrites")) == 1


def test_large_records_go_in_calls_that_servers_take(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    client.apply_writes([Write("create", THING, f"k{n}", {"text": "x" * 100_000}) for n in range(20)])
    bodies = [request.received for request in called(proxy, "com.atproto.repo.applyWrites")]
    assert len(bodies) == 4
    assert max(bodies) <= repository.MOST_BYTES + 10_000
    assert len(list(client.list_records(str(client.did), THING))) == 20
    with pytest.raises(
        XrpcError, match=r"com.atproto.repo.applyWrites: this is more than the server takes \(413\)"
    ) as caught:
        client.apply_writes([Write("create", THING, None, {"text": "x" * 1_100_000})])
    assert caught.value.status == 413


def test_pages_that_are_too_large_are_asked_for_in_parts(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    client = login()
    client.apply_writes([Write("create", THING, f"k{n:02}", {"text": "x" * 10_000}) for n in range(30)])
    monkeypatch.setattr(repository, "MOST_PAGE", 120_000)
    assert [each.uri.rkey for each in client.list_records(str(client.did), THING, reverse=True)] == [
        f"k{n:02}" for n in range(30)
    ]
    monkeypatch.setattr(repository, "MOST_PAGE", 5_000)
    with pytest.raises(OversizeError):
        list(client.list_records(str(client.did), THING))


def test_a_commit_that_must_still_be_the_latest(login: Login) -> None:
    client = login()

    def latest() -> str:
        return str(
            client._reading(str(client.did)).query("com.atproto.sync.getLatestCommit", {"did": str(client.did)})["cid"]
        )

    before = latest()
    many = [Write("create", THING, f"k{n}", {"n": n}) for n in range(250)]
    assert len(client.apply_writes(many, swap_commit=before)) == 250, "also over several calls"
    with pytest.raises(SwapError, match=r"applyWrites: somebody else changed it meanwhile, read it again"):
        client.apply_writes([Write("update", THING, "k0", {"n": -1})], swap_commit=before)
    assert client.get_record(uri(client, "k0")).value["n"] == 0  # type: ignore[union-attr]
    client.apply_writes([Write("update", THING, "k0", {"n": -1})], swap_commit=latest())
    assert client.get_record(uri(client, "k0")).value["n"] == -1  # type: ignore[union-attr]


def test_two_writers_of_one_record(login: Login) -> None:
    """The second is told, and what the first wrote stays."""
    client = login()
    first = client.put_record(THING, "label", {"n": 1}, swap_record=None)
    with pytest.raises(SwapError, match=r"putRecord: somebody else changed it meanwhile, read it again") as caught:
        client.put_record(THING, "label", {"n": 2}, swap_record=None)
    assert (caught.value.status, caught.value.error, caught.value.nsid) == (
        400,
        "InvalidSwap",
        "com.atproto.repo.putRecord",
    )
    second = client.put_record(THING, "label", {"n": 2}, swap_record=first.cid)
    with pytest.raises(SwapError):
        client.put_record(THING, "label", {"n": 3}, swap_record=first.cid)
    found = client.get_record(first.uri)
    assert found is not None
    assert (found.cid, found.value["n"]) == (second.cid, 2)


def test_what_is_to_be_created_must_not_be_there(login: Login) -> None:
    client = login()
    client.put_record(THING, "a", {"n": 1})
    taken = f"there is a record at {uri(client, 'a')} already, of other content; nothing was changed"
    with pytest.raises(SwapError, match=taken):
        client.apply_writes([Write("create", THING, "new", {"n": 1}), Write("create", THING, "a", {"n": 2})])
    assert client.get_record(uri(client, "new")) is None
    assert client.get_record(uri(client, "a")).value["n"] == 1  # type: ignore[union-attr]


def test_what_was_done_before_a_failure_is_told(login: Login) -> None:
    client = login()
    writes = [Write("create", THING, f"k{n}", {"n": n}) for n in range(250)]
    writes[249] = Write("create", THING, "bad", {"half": 0.5})
    with pytest.raises(XrpcError) as caught:
        client.apply_writes(writes)
    assert caught.value.__notes__ == ["200 of 250 changes were made before, and stay"]
    assert len(list(client.list_records(str(client.did), THING))) == 200


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (Write("create", "thing", "a", {}), "'thing' is no collection, such as com.example.thing"),
        (Write("update", THING, "a/b", {}), "'a/b' is no record key: one has up to 512 of the characters"),
        (Write("update", THING, None, {}), "None is no record key"),
        (
            Write("update", THING, "a"),
            "a change to update com.example.thing/a has a value exactly when it leaves a record",
        ),
        (Write("delete", THING, "a", {}), "a change to delete com.example.thing/a has a value exactly when"),
        (Write("replace", THING, "a", {}), "'replace' is no change of a record: create, update and delete are"),  # type: ignore[arg-type]
    ],
)
def test_changes_that_make_no_sense(login: Login, write: Write, message: str) -> None:
    client = login()
    with pytest.raises(AddressError, match=re.escape(message)):
        client.apply_writes([Write("update", THING, "other", {}), write])
    assert client.get_record(uri(client, "other")) is None


@pytest.mark.parametrize("value", [float("nan"), b"bytes", {1, 2}, object()])
def test_values_that_are_no_json(login: Login, value: Any) -> None:
    client = login()
    with pytest.raises(RecordError, match=r"a record is to be JSON: "):
        client.put_record(THING, "a", {"value": value})
    with pytest.raises(RecordError, match=r"a record is to be JSON: "):
        client.apply_writes([Write("update", THING, "a", {"value": value})])


def test_values_that_the_network_does_not_know_are_refused_by_the_server(login: Login) -> None:
    client = login()
    with pytest.raises(XrpcError, match=r"com.atproto.repo.putRecord: the server answers 400 ") as caught:
        client.put_record(THING, "a", {"value": 0.5})
    assert caught.value.url == client.identity.pds  # type: ignore[union-attr]


def test_an_account_that_is_not_there(login: Login) -> None:
    client = login()
    nobody = "did:plc:" + "a" * 24
    with pytest.raises(AtmosphereError, match=rf"{nobody} is not known"):
        client.get_record(f"at://{nobody}/{THING}/a")
    with pytest.raises(AtmosphereError, match=rf"{nobody} is not known"):
        next(client.list_records(nobody, THING))


def test_threads_share_a_client(login: Login) -> None:
    client = login()
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(5):
                client.put_record(THING, f"t{number}-{n}", {"n": n})
                assert client.get_record(uri(client, f"t{number}-{n}")) is not None
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(list(client.list_records(str(client.did), THING))) == 30


def test_a_forked_process_reads_and_writes(login: Login) -> None:
    client = login()
    client.put_record(THING, "parent", {"n": 1})

    def child() -> str:
        client.put_record(THING, "child", {"pid": os.getpid()})
        return json.dumps([each.uri.rkey for each in client.list_records(str(client.did), THING)])

    assert json.loads(in_fork(child)) == ["parent", "child"]
    assert client.get_record(uri(client, "child")).value["pid"] != os.getpid()  # type: ignore[union-attr]


# -- lost answers, and servers that fail


@pytest.mark.parametrize("action", ["create", "update", "delete"])
def test_a_lost_answer_is_found_out_and_nothing_done_twice(login: Login, proxy: FaultProxy, action: Any) -> None:
    client = login(pds_url=proxy.endpoint)
    if action != "create":
        client.apply_writes([Write("create", THING, f"k{n}", VALUE) for n in range(3)])
    proxy.lose_answers("POST")
    value = None if action == "delete" else VALUE if action == "create" else {**VALUE, "n": 2}
    written = client.apply_writes([Write(action, THING, f"k{n}", value) for n in range(3)])
    listed = [] if action == "delete" else sorted(client.list_records(str(client.did), THING))
    assert [(each.uri, each.cid) for each in listed] == [(each.uri, each.cid) for each in written if each.cid]
    assert len(written) == 3


def test_changes_of_what_is_not_there(login: Login) -> None:
    """Servers tell making and replacing apart; to an update it is the same, and to a removal that nothing is left."""
    client = login()
    client.put_record(THING, "old", {"n": 0})
    written = client.apply_writes(
        [
            Write("update", THING, "old", {"n": 1}),
            Write("update", THING, "new", {"n": 2}),
            Write("delete", THING, "none"),
        ]
    )
    assert [each.cid for each in written] == [
        client.get_record(uri(client, "old")).cid, client.get_record(uri(client, "new")).cid, ""  # type: ignore[union-attr]
    ]  # fmt: skip


def test_a_connection_that_breaks_before_anything_was_done(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    proxy.answer_next(502, count=2, path="applyWrites")
    written = client.apply_writes([Write("create", THING, "a", {"n": 1})])
    assert client.get_record(written[0].uri) == Record(written[0].uri, written[0].cid, {"$type": THING, "n": 1})


@pytest.mark.slow
def test_lost_answers_over_several_calls_with_a_commit(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    before = client._reading(str(client.did)).query("com.atproto.sync.getLatestCommit", {"did": str(client.did)})["cid"]
    proxy.lose_answers("POST")
    assert (
        len(client.apply_writes([Write("create", THING, f"k{n}", {"n": n}) for n in range(250)], swap_commit=before))
        == 250
    )


def test_lost_answers_to_single_records(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    proxy.lose_answers("POST")
    written = client.put_record(THING, "a", VALUE, swap_record=None)
    assert written.cid == client.get_record(written.uri).cid  # type: ignore[union-attr]
    proxy.lose_answers("POST")
    client.delete_record(THING, "a")
    assert client.get_record(written.uri) is None


def test_a_server_that_fails_now_and_then(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    proxy.set(fail_every=3, fail_status=503)
    client.apply_writes([Write("create", THING, None, {"n": n}) for n in range(250)])
    assert len(list(client.list_records(str(client.did), THING))) == 250
    assert client.blob_limit > 0


def test_a_server_that_is_gone(login: Login, proxy: FaultProxy) -> None:
    client = login(pds_url=proxy.endpoint)
    client.http.tries = 2
    proxy.set(refuse=True)
    proxy.reset()
    for do in (
        lambda: client.apply_writes([Write("create", THING, None, {})]),
        lambda: client.put_record(THING, "a", {}),
        lambda: client.get_record(uri(client, "a")),
        lambda: list(client.list_records(str(client.did), THING)),
    ):
        with pytest.raises(
            AtmosphereError, match=r"the server cannot be reached, also when asked 2 times: .*\[http://127"
        ):
            do()


def test_requests_beyond_a_limit(login: Login, proxy: FaultProxy) -> None:
    """A short wait is waited; a long one is told, with its end."""
    client = login(pds_url=proxy.endpoint)
    proxy.answer_next(429, path="putRecord", headers={"Retry-After": "1"})
    client.put_record(THING, "a", {})
    proxy.answer_next(
        429,
        path="putRecord",
        headers={"RateLimit-Reset": "9999999999"},
        body='{"error":"RateLimitExceeded","message":"Rate Limit Exceeded"}',
    )
    with pytest.raises(
        AtmosphereError, match=r"putRecord: the server takes no more requests for .* s: Rate Limit Exceeded"
    ) as caught:
        client.put_record(THING, "a", {})
    assert caught.value.retry_at == pytest.approx(9999999999, abs=5)  # type: ignore[attr-defined]


# -- servers of strangers

BOB = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"


@pytest.fixture
def stranger(rude: RudeServer) -> Iterator[Atmosphere]:
    """Reads an account whose server says what the test wants."""
    serve(rude, rude.url())
    with Atmosphere(directory=rude.url(), allow_private=True) as client:
        client.http.tries = 2
        yield client


def serve(rude: RudeServer, pds: str) -> None:
    service = {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": pds}
    key = {
        "id": f"{BOB}#atproto",
        "type": "Multikey",
        "publicKeyMultibase": "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF",
    }
    rude.json(f"/{BOB}", {"id": BOB, "service": [service], "verificationMethod": [key]})


GOOD = {
    "uri": f"at://{BOB}/{THING}/a",
    "cid": "bafyreidnzhwcbncg3avwjjao5o6wx4zhnksmxhdo6w5iaqupexnmzdlb54",
    "value": {},
}


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({}, "the server's list of records makes no sense"),
        ({"records": "all"}, "the server's list of records makes no sense"),
        ({"records": [1]}, "the server gives something that is no record"),
        ({"records": [{**GOOD, "value": [1]}]}, "the server gives something that is no record"),
        ({"records": [{**GOOD, "cid": None}]}, "the server's answer has no cid"),
        ({"records": [{**GOOD, "uri": "x"}]}, "'x' is no AT URI of a record"),
        ({"records": [{**GOOD, "uri": f"at://did:plc:other/{THING}/a"}]}, f"when asked for {THING} of {BOB}"),
        ({"records": [{**GOOD, "uri": f"at://{BOB}/com.example.other/a"}]}, "com.example.other/a when asked for"),
        ({"records": [GOOD], "cursor": "same"}, "the server's list of records goes in a circle"),
        ({"records": [GOOD], "cursor": {"x": 1}}, "the server's list of records goes in a circle"),
        ([], "listRecords: the server answers with what is no JSON object"),
    ],
)  # fmt: skip
def test_lists_that_make_no_sense(stranger: Atmosphere, rude: RudeServer, page: Any, message: str) -> None:
    rude.json("/xrpc/com.atproto.repo.listRecords", page)
    with pytest.raises(AtmosphereError, match=message):
        list(stranger.list_records(BOB, THING))


def test_a_record_of_another_place(stranger: Atmosphere, rude: RudeServer) -> None:
    rude.json("/xrpc/com.atproto.repo.getRecord", {**GOOD, "uri": f"at://{BOB}/{THING}/b"})
    with pytest.raises(
        AtmosphereError, match=rf"the server gives at://{BOB}/{THING}/b when asked for at://{BOB}/{THING}/a"
    ):
        stranger.get_record(f"at://{BOB}/{THING}/a", proof=False)


def test_a_server_that_only_says_that_there_is_no_record(stranger: Atmosphere, rude: RudeServer) -> None:
    """Some do not prove it. What they say of others is an error."""
    for method in ("com.atproto.repo.getRecord", "com.atproto.sync.getRecord"):
        rude.json(f"/xrpc/{method}", {"error": "RecordNotFound"}, 400)
    for proof in (True, False):
        assert stranger.get_record(f"at://{BOB}/{THING}/a", proof=proof) is None
    for method in ("com.atproto.repo.getRecord", "com.atproto.sync.getRecord"):
        rude.json(f"/xrpc/{method}", {"error": "InvalidRequest", "message": "Could not find repo"}, 400)
    for proof in (True, False):
        with pytest.raises(XrpcError, match=r"getRecord: the server answers 400 InvalidRequest: Could not find repo"):
            stranger.get_record(f"at://{BOB}/{THING}/a", proof=proof)


@pytest.mark.parametrize("answer", ["{}", '{"results": 1}', '{"results": []}', "[]", "nonsense", ""])
def test_answers_to_changes_that_make_no_sense(login: Login, proxy: FaultProxy, answer: str) -> None:
    client = login(pds_url=proxy.endpoint)
    proxy.answer_next(200, path="applyWrites", body=answer or " ")
    with pytest.raises(AtmosphereError, match=r"makes no sense|is no JSON object"):
        client.apply_writes([Write("create", THING, "a", {})])
    proxy.answer_next(200, path="putRecord", body=answer or " ")
    with pytest.raises(AtmosphereError, match=r"the server's answer has no cid|is no JSON object"):
        client.put_record(THING, "a", {})


@given(st.binary(max_size=20), st.booleans())
def test_values_are_compared_as_the_data_model_has_them(data: bytes, padded: bool) -> None:
    """Servers write bytes without padding, and keys in another order."""
    text = base64.b64encode(data).decode()
    here = {"a": [1, {"$bytes": text}], "b": None}
    there = {"b": None, "a": [1, {"$bytes": text if padded else text.rstrip("=")}]}
    assert repository.same(here, there)
    for other in ({**here, "b": False}, {**here, "c": 1}, {"a": [True, {"$bytes": text}], "b": None}, {"a": here["a"]}):
        assert not repository.same(here, other)


def test_errors_of_strangers_are_shown_in_bounds(stranger: Atmosphere, rude: RudeServer) -> None:
    rude.json("/xrpc/com.atproto.repo.listRecords", {"error": "\x1b]0;x", "message": "\x1b[31m" + "x" * 10_000}, 400)
    with pytest.raises(
        XrpcError, match=r"com.atproto.repo.listRecords: the server answers 400: \\x1b\[31mxxx"
    ) as caught:
        list(stranger.list_records(BOB, THING))
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)


def test_an_account_that_moved_is_found_again(stranger: Atmosphere, rude: RudeServer) -> None:
    """What is remembered of it names its old server, which has it no more, or is gone."""
    rude.json("/xrpc/com.atproto.repo.listRecords", {"error": "RepoDeactivated"}, 400)
    rude.json("/xrpc/com.atproto.repo.getRecord", {"error": "InvalidRequest"}, 400)
    with RudeServer() as new:
        new.json("/xrpc/com.atproto.repo.listRecords", {"records": [GOOD]})
        new.json("/xrpc/com.atproto.repo.getRecord", GOOD)
        assert stranger.resolve(BOB).pds == rude.url()
        serve(rude, new.url())
        assert [each.uri.rkey for each in stranger.list_records(BOB, THING)] == ["a"]
        assert stranger.resolve(BOB).pds == new.url()
    serve(rude, rude.url())
    rude.json("/xrpc/com.atproto.repo.getRecord", GOOD)
    assert stranger.get_record(f"at://{BOB}/{THING}/a", proof=False) is not None
