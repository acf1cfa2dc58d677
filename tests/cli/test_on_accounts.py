"""The commands on datasets that lie in an account of the AT Protocol."""

import json

import pytest
from cli_process import Sign, signs

import atdata
from atdata.atmosphere import Atmosphere


@pytest.fixture
def account(atproto):
    return atproto.make_account()


@pytest.fixture
def run_at(run, account, atproto, tmp_path):
    """Runs `atdata` as the account's owner."""

    def run_at(*arguments, **extra):
        owner = {
            "ATDATA_HANDLE": account.did,
            "ATDATA_APP_PASSWORD": account.password,
            "ATDATA_PLC_DIRECTORY": atproto.directory,
            "ATDATA_ALLOW_PRIVATE": "1",
            "ATDATA_CACHE": str(tmp_path / "cache"),
        }
        return run(*arguments, **{**owner, **extra})

    return run_at


@pytest.mark.slow
def test_a_dataset_goes_to_an_account_and_back(run_at, account, dataset, tmp_path):
    place = f"at://{account.did}/signs/v1"
    done = run_at("cp", "signs/v1", place, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert all(url.startswith(f"at://{account.did}/blob/bafkrei") for url in told["shards"])
    assert told["cid"] == atdata.Dataset(dataset).cid
    assert run_at("cp", "signs/v1", place).err.count("there is a dataset already") == 1

    shown = json.loads(run_at("inspect", place, "--json").out)
    assert (shown["cid"], shown["samples"], shown["problems"]) == (told["cid"], 150, [])
    assert [shard["manifest"] for shard in shown["shards"]] == ["yes", "yes"]
    heads = [json.loads(run_at("head", each, "-n", "3", "--json").out) for each in (place, "signs/v1")]
    assert heads[0] | {"url": ""} == heads[1] | {"url": ""}
    assert run_at("verify", place).code == 0
    assert "0 added, 0 removed, 0 changed, 150 unchanged" in run_at("diff", "signs/v1", place).out

    # Its shards have no names there; they get new ones.
    assert run_at("cp", place, "back/v1").code == 0
    assert run_at("cp", place, f"at://{account.did}/signs/v2").code == 0
    for copy in ("back/v1", f"at://{account.did}/signs/v2"):
        assert json.loads(run_at("inspect", copy, "--json").out)["cid"] == told["cid"]
    names = {path.name for path in dataset.iterdir()}
    assert {path.name for path in (tmp_path / "back" / "v1").iterdir()} == names
    assert list(atdata.Dataset[Sign](tmp_path / "back" / "v1")) == list(signs(150))


def test_what_cannot_be_done_in_an_account(run_at, account, dataset, atproto):
    nobody = {"ATDATA_HANDLE": "", "ATDATA_APP_PASSWORD": ""}
    other = atproto.make_account()
    for arguments, extra, message in (
        (("cp", "signs/v1", f"at://{account.did}"), {}, f"for example at://{account.did}/training/v1"),
        (("cp", "signs/v1", f"at://{other.did}/x"), {}, "writes to its own only"),
        (("cp", "signs/v1", f"at://{account.did}/x"), nobody, "nobody is logged in"),
        (("inspect", f"at://{account.did}/nothing"), nobody, "there is no dataset here"),
        (("inspect", f"at://{account.did}/blob/x"), nobody, "begins addresses of another kind"),
    ):
        answer = run_at(*arguments, **extra)
        assert answer.code == 1
        assert message in answer.err, answer.err
    with Atmosphere.login(
        account.did, account.password, directory=atproto.directory, allow_private=True, pds_url=account.pds
    ) as client:
        assert list(atdata.PDSBlobStore(client).list()) == []
