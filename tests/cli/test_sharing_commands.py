"""`atdata publish`, `pull`, `unpublish`, and the other commands on accounts: one person shares, another reads."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_process import ATDATA, Answer, Sign, environment, flip, signs

import atdata
from atdata.testing.network import LocalAccount
from servers.atproto import SharedNetwork

pytestmark = pytest.mark.slow

Run = Callable[..., Answer]


@pytest.fixture
def alice(atproto: SharedNetwork) -> LocalAccount:
    return atproto.make_account()


@pytest.fixture
def as_(tmp_path: Path, atproto: SharedNetwork) -> Callable[[LocalAccount | None], Run]:
    """as_(account) runs `atdata` as its owner does, as_(None) as somebody without one; each has a home."""

    def of(account: LocalAccount | None) -> Run:
        home = tmp_path / ("nobody" if account is None else account.handle.partition(".")[0])
        home.mkdir(exist_ok=True)
        world = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "ATDATA_CREDENTIALS": "file",
            "ATDATA_ALLOW_PRIVATE": "1",
            "ATDATA_PLC_DIRECTORY": atproto.directory,
            "ATDATA_HANDLES_AT": atproto.pds[0],
        }
        if account is not None:
            world |= {"ATDATA_HANDLE": account.handle, "ATDATA_APP_PASSWORD": account.password}

        def run(*arguments: str | Path) -> Answer:
            command = [*ATDATA, *map(str, arguments)]
            done = subprocess.run(
                command, cwd=home, env=environment(**world), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=200, check=False,
            )  # fmt: skip
            assert "Traceback" not in done.stderr
            return Answer(done.returncode, done.stdout, done.stderr)

        return run

    return of


@pytest.fixture
def made(tmp_path: Path, alice: LocalAccount) -> Any:
    """In alice's own index: `signs`, of 150 samples in two shards."""
    home = tmp_path / alice.handle.partition(".")[0]
    home.mkdir()
    with atdata.LocalIndex(home / ".atdata" / "index.db", store=atdata.LocalDiskStore(home / "data")) as index:
        return index.write_samples(
            signs(150), name="signs", sample_type=Sign, maxcount=100, tags=["pictures"], license="CC0-1.0",
            description="Signs, made up.",
        )  # fmt: skip


def said(answer: Answer) -> Any:
    assert (answer.code, answer.err) == (0, "")
    return answer.document


def test_one_publishes_and_another_reads(as_: Any, alice: LocalAccount, made: Any, tmp_path: Path) -> None:
    """From the local index into the account, found and copied by somebody without one; nothing is lost on the way."""
    mine, other = as_(alice), as_(None)
    ref = f"@{alice.handle}/signs"
    told = said(mine("publish", "signs", "--to", "@me", "--blobs", "--json"))
    assert (told["ref"], told["version"], told["cid"]) == (ref, "1.0.0", made.cid)

    (listed,) = said(other("ls", f"@{alice.handle}", "--json"))["datasets"]
    assert (listed["name"], listed["samples"], listed["tags"]) == ("signs", 150, ["pictures"])
    assert (listed["license"], listed["description"]) == ("CC0-1.0", "Signs, made up.")
    text = other("ls", f"@{alice.handle}").out
    assert "signs" in text
    assert "Sign@1.0.0" in text
    shown = said(other("show", ref, "--json"))
    assert (shown["cid"], shown["uri"], len(shown["shards"])) == (made.cid, told["uri"], 2)
    assert said(other("show", told["uri"], "--json"))["cid"] == made.cid
    assert said(other("search", "made", "--index", f"@{alice.handle}", "--json"))["datasets"] == [listed]
    assert said(other("ls", ref, "--json"))["versions"][0]["version"] == "1.0.0"

    assert [s["fields"]["label"] for s in said(other("head", ref, "-n", "3", "--json"))["samples"]] == [0, 1, 2]
    assert said(other("inspect", ref, "--json"))["samples"] == 150

    pulled = said(other("pull", ref, "--to", "data", "--json"))
    assert (pulled["cid"], pulled["destination"]) == (made.cid, "data/signs")
    assert said(other("verify", "data/signs", "--json"))["ok"]
    assert len(atdata.Dataset(tmp_path / "nobody" / "data" / "signs")) == 150
    assert other("diff", ref, "data/signs").code == 0


def test_publishing_again_changes_nothing(as_: Any, alice: LocalAccount, made: Any) -> None:
    mine = as_(alice)
    first = said(mine("publish", "signs", "--blobs", "--json"))
    again = mine("publish", "signs", "--blobs")
    assert (again.code, again.err) == (0, "")
    assert "was published already" in again.out
    assert said(mine("ls", "@me", "--json"))["datasets"][0]["uri"] == first["uri"]
    assert len(said(mine("ls", "@me/signs", "--json"))["versions"]) == 1


def test_shards_on_this_machine_are_not_published_by_their_paths(
    as_: Any, alice: LocalAccount, made: Any, tmp_path: Path
) -> None:
    answer = as_(alice)("publish", "signs")
    assert answer.code == 1
    assert "atdata cp" in answer.err
    assert said(as_(alice)("ls", "@me", "--json"))["datasets"] == []


def test_a_folder_is_published_under_a_name(as_: Any, alice: LocalAccount, dataset: Path) -> None:
    mine = as_(alice)
    answer = mine("publish", f"{dataset}/", "--blobs")
    assert answer.code == 1
    assert "--as" in answer.err
    told = said(mine("publish", f"{dataset}/", "--as", "team/signs", "--blobs", "--license", "MIT", "--json"))
    assert told["ref"] == f"@{alice.handle}/team/signs"
    assert said(mine("show", "@me/team/signs", "--json"))["license"] == "MIT"
    assert [d["name"] for d in said(mine("ls", f"at://{alice.did}", "--json"))["datasets"]] == ["team/signs"]
    assert [d["name"] for d in said(mine("search", "signs", "--index", "@me", "--json"))["datasets"]] == ["team/signs"]
    assert said(mine("inspect", "@me/team/signs", "--json"))["samples"] == 150
    verified = said(mine("verify", "@me/team/signs", "--deep", "--json"))
    assert (verified["ok"], verified["chain"][0]["link"]) == (True, "account")
    assert said(mine("pull", "@me/team/signs", "--to", "back", "--json"))["destination"] == "back/team/signs"
    assert mine("diff", "@me/team/signs", "back/team/signs").code == 0


def test_unpublishing_takes_the_records_and_if_asked_the_blobs(as_: Any, alice: LocalAccount, made: Any) -> None:
    mine, other = as_(alice), as_(None)
    said(mine("publish", "signs", "--blobs", "--json"))
    shards = said(mine("show", "@me/signs", "--json"))["shards"]
    refused = mine("unpublish", "signs")
    assert refused.code == 1
    assert "--yes" in refused.err
    told = said(mine("unpublish", "signs", "--blobs", "--yes", "--json"))
    assert told["versions"] == ["1.0.0"]
    assert len(told["blobs_of"]) == 1
    gone = other("show", f"@{alice.handle}/signs")
    assert gone.code == 1
    assert "there is no dataset 'signs'" in gone.err
    assert other("head", shards[0]["url"]).code == 1


def test_only_the_owner_publishes(as_: Any, alice: LocalAccount, atproto: SharedNetwork, made: Any) -> None:
    bob = atproto.make_account(pds=1)
    answer = as_(alice)("publish", "signs", "--blobs", "--to", f"@{bob.handle}")
    assert answer.code == 1
    assert "only an account's owner publishes in it" in answer.err
    answer = as_(None)("publish", "signs", "--index", "nowhere.db")
    assert answer.code == 1
    answer = as_(None)("ls", "@me")
    assert answer.code == 1
    assert "logged in" in answer.err
    assert alice.password not in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "@nobody.pds0.test"], "nobody.pds0.test"),
        (["show", "@alice.pds0.test"], "which dataset?"),
        (["pull", "digits"], "write @HANDLE/NAME"),
        (["pull", "@me/digits"], "nobody is logged in: run atdata login"),
        (["verify", "@me/digits"], "nobody is logged in: run atdata login"),
        (["head", "@me/digits"], "nobody is logged in: run atdata login"),
        (["ls", "@me"], "nobody is logged in: run atdata login"),
        (["publish", "digits", "--to", "@me", "--index", "none.db"], "there is no index here"),
        (["rm", "@me/digits", "--yes"], "atdata unpublish"),
        (["unpublish", "digits"], "logged in"),
        (["ls", "@"], "name an account"),
    ],
)
def test_mistakes_are_named(as_: Any, arguments: list[str], message: str) -> None:
    answer = as_(None)(*arguments)
    assert (answer.code, answer.out) == (1, "")
    assert message in answer.err


def test_what_was_cut_off_goes_on(as_: Any, alice: LocalAccount, made: Any, tmp_path: Path) -> None:
    """A copy with a damaged file in it is not taken for whole."""
    as_(alice)("publish", "signs", "--blobs")
    other = as_(None)
    ref = f"@{alice.handle}/signs"
    said(other("pull", ref, "--json"))
    assert other("pull", ref).code == 1
    flip(tmp_path / "nobody" / "signs" / "shard-000001.tar", 700)
    assert other("verify", "signs").code == 1
    assert said(other("pull", ref, "--overwrite", "--json"))["cid"] == made.cid
    assert other("verify", "signs").code == 0
