"""`atdata ls`, `search`, `show`, `diff`, `rm`, `gc`, `schema …` and `index migrate`, as a person uses them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_process import ATDATA, environment

import atdata


@atdata.packable
class Word:
    """A word."""

    text: str


@atdata.packable
class Noted:
    text: str
    note: str = "none"


def words(*texts: str) -> list[Word]:
    return [Word(text) for text in texts]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs `atdata` in the test's folder, which is its home too."""

    def run(*arguments: str | Path, **extra: str) -> Any:
        done = subprocess.run(
            [*ATDATA, *map(str, arguments)],
            cwd=tmp_path,
            env=environment(HOME=str(tmp_path), **extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Answer(done)

    return run


class Answer:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The default index of `run`: three versions of `words`, and `team/numbers`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ATDATA_INDEX", raising=False)
    with atdata.LocalIndex() as index:
        index.write_samples(
            words("a", "b"), name="words", tags=["text", "small"], description="Some words.\nTwo.", license="CC0-1.0"
        )
        index.append("words", words("c"))
        changed = atdata.Dataset.from_samples([Word("a"), Word("x"), Word("d")], Word)
        index.write_samples(changed, name="words", metadata={"from": "a test"})
        index.label("words", "stable", version="1.1.0")
        index.write_samples([Noted("1")], name="team/numbers", tags=["text"])
        yield index


def rows(answer: Answer) -> list[list[str]]:
    return [line.split() for line in answer.out.splitlines() if line.strip()]


# -- finding -----------------------------------------------------------------------------------------------------


def test_ls(run: Any, index: atdata.LocalIndex, tmp_path: Path) -> None:
    answer = run("ls")
    assert (answer.code, answer.err) == (0, "")
    assert [row[:3] for row in rows(answer)[2:4]] == [["team/numbers", "1.0.0", "1"], ["words", "2.0.0", "3"]]
    assert answer.out.rstrip().endswith(f"2 datasets in {tmp_path}/.atdata/index.db")
    assert [row[1] for row in rows(run("ls", "words"))[2:5]] == ["2.0.0", "1.1.0", "1.0.0"]
    document = run("ls", "--json").document
    assert [(d["name"], d["version"], d["samples"]) for d in document["datasets"]] == [
        ("team/numbers", "1.0.0", 1),
        ("words", "2.0.0", 3),
    ]
    assert [v["version"] for v in run("ls", "words", "--json").document["versions"]] == ["2.0.0", "1.1.0", "1.0.0"]


def test_ls_of_many(run: Any, index: atdata.LocalIndex) -> None:
    ds = index.get_dataset("words").dataset()
    for number in range(101):
        index.insert_dataset(ds, name=f"n{number}")
    short = run("ls")
    assert "more than 100 datasets in" in short.out
    assert "(--all)" in short.out
    assert "103 datasets in" in run("ls", "--all").out
    assert len(run("ls", "--json").document["datasets"]) == 103


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["some", "wor"], ["words"]),
        (["--tag", "text"], ["team/numbers", "words"]),
        (["--tag", "text", "--tag", "small"], ["words"]),
        (["--schema", "Noted"], ["team/numbers"]),
        (["nothing"], []),
        ([], ["team/numbers", "words"]),
    ],
)
def test_search(run: Any, index: atdata.LocalIndex, arguments: list[str], names: list[str]) -> None:
    ds = index.get_dataset("words@1.1.0").dataset()
    index.insert_dataset(ds, name="words", version="2.1.0", tags=["text", "small"], description="Some words.")
    answer = run("search", *arguments, "--json")
    assert (answer.code, [d["name"] for d in answer.document["datasets"]]) == (0, names)
    assert f"{len(names)} dataset" in run("search", *arguments).out


def test_show(run: Any, index: atdata.LocalIndex) -> None:
    answer = run("show", "words@1.0.0")
    entry = index.get_dataset("words@1.0.0")
    assert (answer.code, answer.err) == (0, "")
    for text in (
        "words@1.0.0", "Some words.", "atdata://local/schema/Word@1.0.0", entry.cid, "2 samples in 1 shard", "CC0-1.0",
        "stable (1.1.0)", "2.0.0, 1.1.0, 1.0.0", "text, small", entry.data_urls[0],
    ):  # fmt: skip
        assert text in answer.out, text
    document = run("show", "words@latest", "--json").document
    assert document["version"] == "2.0.0"
    assert document["parent"] == "1.1.0"
    assert document["metadata"] == {"from": "a test"}
    assert document["labels"] == {"stable": "1.1.0"}
    (shard,) = document["shards"]
    assert shard["url"] == index.get_dataset("words").data_urls[0]
    assert shard["sha256"] == index.get_dataset("words").shards[0].info.sha256
    assert run("show", "words@stable", "--json").document["version"] == "1.1.0"
    assert run("show", entry.cid, "--json").document["version"] == "1.0.0"


def test_what_is_not_there(run: Any, index: atdata.LocalIndex) -> None:
    for arguments, message in (
        (("show", "words@9.9.9"), "words has no version 9.9.9; there are 2.0.0, 1.1.0, 1.0.0"),
        (("show", "wrds"), "did you mean 'words'"),
        (("ls", "wrds"), "did you mean 'words'"),
        (("rm", "words@best", "--yes"), "words has no label 'best'"),
        (("diff", "words", "wrds"), "the index has no dataset 'wrds'"),
        (("schema", "show", "Wrd"), "the index has no schema Wrd"),
        (("ls", "--index", "none.db"), "there is no index here"),
        (("index", "migrate", "none.db"), "there is no index here"),
        (("show", "no such name"), "cannot name a dataset"),
    ):
        answer = run(*arguments)
        assert (answer.code, answer.out) == (1, ""), arguments
        assert message in answer.err
        assert answer.err.startswith("atdata: error: ")
        assert run(*arguments, "--json").document["error"]["message"]
    assert not Path("none.db").exists()


def test_without_an_index(run: Any, tmp_path: Path) -> None:
    for arguments in (
        ("ls",),
        ("search", "x"),
        ("show", "x"),
        ("gc", "--dry-run"),
        ("schema", "ls"),
        ("rm", "x", "--yes"),
    ):
        answer = run(*arguments)
        assert (answer.code, answer.out) == (1, "")
        assert "there is no index here" in answer.err
        assert "[~/.atdata/index.db]" in answer.err
    assert not (tmp_path / ".atdata").exists()
    assert run("ls", ATDATA_INDEX="elsewhere.db").err.endswith("[elsewhere.db]\n")


@pytest.mark.parametrize(
    "arguments", [("show",), ("diff", "x"), ("gc", "--grace", "soon"), ("ls", "a", "b"), ("schema", "x")]
)
def test_wrong_usage(run: Any, arguments: tuple[str, ...]) -> None:
    answer = run(*arguments)
    assert (answer.code, answer.out) == (2, "")


# -- differences -------------------------------------------------------------------------------------------------


def test_diff(run: Any, index: atdata.LocalIndex, tmp_path: Path) -> None:
    answer = run("diff", "words@1.0.0", "words@1.1.0")
    assert (answer.code, answer.err) == (1, "")
    assert answer.out == (
        "words@1.0.0 → words@1.1.0\n"
        "+ 000000002\n"
        "1 added, 0 removed, 0 changed, 2 unchanged; 1 shard the same on both sides\n"
        "a minor change\n"
    )
    answer = run("diff", "words@stable", "words", "--json")
    assert answer.code == 1
    document = answer.document
    assert (document["added"], document["removed"], document["changed"], document["change"]) == (0, 0, 2, "major")
    assert [s["key"] for s in document["samples"]["changed"]] == ["000000001", "000000002"]
    new = index.get_dataset("words")
    assert document["samples"]["changed"][0]["new"]["url"] == new.data_urls[0]
    assert document["new"] == {"name": "words", "cid": new.cid}
    same = run("diff", "words", "words@2.0.0")
    assert (same.code, same.out.splitlines()[-1]) == (0, "nothing changed")
    folder = Path(new.data_urls[0]).parent
    assert run("diff", "words", folder).code == 0


def test_diff_of_places_with_splits(run: Any, tmp_path: Path) -> None:
    store = atdata.LocalDiskStore(tmp_path)
    for place, texts in (("a", "xyz"), ("b", "xyzz")):
        for name in ("train", "test"):
            ds = atdata.Dataset.from_samples(words(*(name + t for t in texts)), Word)
            store.write_shards(ds, prefix=f"{place}/{name}", maxcount=2, manifest=place == "a" or name == "train")
    answer = run("diff", "./a", "./b")
    assert answer.code == 1
    assert "2 added, 0 removed, 0 changed, 6 unchanged; 2 shards the same" in answer.out
    assert "read to the end, for lack of manifests: /" in answer.out
    many = run("diff", "./a/train", "./a/test")
    assert "~ 000000002" in many.out


def test_diff_lists_some_or_all(run: Any, tmp_path: Path) -> None:
    store = atdata.LocalDiskStore(tmp_path)
    for place, n in (("a", 5), ("b", 105)):
        store.write_shards(atdata.Dataset.from_samples(words(*map(str, range(n))), Word), prefix=place)
    assert "+ … 90 more (--all)" in run("diff", "./a", "./b").out
    assert run("diff", "./a", "./b", "--all").out.count("\n+ ") == 100
    assert len(run("diff", "./a", "./b", "--all", "--json").document["samples"]["added"]) == 100
    assert len(run("diff", "./a", "./b", "--json").document["samples"]["added"]) == 10


# -- schemas -----------------------------------------------------------------------------------------------------


def test_schemas(run: Any, index: atdata.LocalIndex, tmp_path: Path) -> None:
    assert run("schema", "ls").out == (
        f"Noted@1.0.0  2 fields\nWord@1.0.0  1 field  A word.\n2 schemas in {tmp_path}/.atdata/index.db\n"
    )
    assert [s["name"] for s in run("schema", "ls", "--json").document["schemas"]] == ["Noted", "Word"]
    folder = Path(index.get_dataset("words").data_urls[0]).parent
    for ref in ("Word", "Word@1.0.0", "atdata://local/schema/Word@1.0.0", "words", "words@stable", folder):
        answer = run("schema", "show", ref)
        assert (answer.code, "class Word:" in answer.out) == (0, True), ref
        assert run("schema", "show", ref, "--json").document == atdata.Schema.of(Word).to_record()
    wrong = run("schema", "show", "Wrd")
    assert "the index has no schema Wrd; there are Word" in wrong.err
    assert "the index has no dataset 'Wrd'" in wrong.err


def test_schema_diff(run: Any, index: atdata.LocalIndex) -> None:
    answer = run("schema", "diff", "Word", "team/numbers")
    assert (answer.code, answer.err) == (1, "")
    assert answer.out == ("Word 1.0.0 -> Noted 1.0.0: minor, older data can be read\n  + note: str, default 'none'\n")
    document = run("schema", "diff", "team/numbers", "Word", "--json").document
    assert (document["change"], document["readable"]) == ("major", False)
    assert [(d["path"], d["kind"]) for d in document["differences"]] == [("note", "removed")]
    assert run("schema", "diff", "Word", "words@1.0.0").code == 0


# -- tidying -----------------------------------------------------------------------------------------------------


def test_rm_and_gc(run: Any, index: atdata.LocalIndex, tmp_path: Path) -> None:
    (url,) = index.get_dataset("words@2.0.0").data_urls
    refused = run("rm", "words@2.0.0")
    assert (refused.code, refused.out) == (1, "")
    assert "words@2.0.0 would be forgotten; nobody is here to be asked: give --yes" in refused.err
    assert run("rm", "words@2.0.0", "--yes").out.startswith("forgot words@2.0.0; its shards stay where they are")
    assert Path(url).exists()
    assert run("show", "words", "--json").document["version"] == "1.1.0"

    assert run("gc", "--dry-run").out == "found 0 things that no version refers to, 0 B\n"  # it is too young
    dry = run("gc", "--dry-run", "--grace", "0s", "--json").document
    assert [(Path(item["url"]), item["removed"]) for item in dry["found"]] == [(Path(url).parent, False)]
    refused = run("gc", "--grace", "0s")
    assert refused.code == 1
    assert "1 thing that no version refers to" in refused.err
    assert Path(url).exists()
    done = run("gc", "--grace", "0s", "--yes")
    assert done.code == 0
    assert str(Path(url).parent) in done.out
    assert not Path(url).exists()
    assert run("rm", "words", "--yes", "--json").document["versions"] == ["1.1.0", "1.0.0"]
    assert "1 dataset in" in run("ls").out


def test_gc_of_a_named_store(run: Any, index: atdata.LocalIndex, tmp_path: Path) -> None:
    ds = atdata.Dataset.from_samples(words("a"), Word)
    for prefix in ("ours/v1", "theirs/v1"):
        atdata.LocalDiskStore(tmp_path / "bucket").write_shards(ds, prefix=prefix)
    answer = run("gc", "--store", "bucket", "--prefix", "ours", "--grace", "0s", "--yes", "--json")
    assert [Path(item["url"]).parent.name for item in answer.document["found"]] == ["ours"]
    assert not (tmp_path / "bucket/ours/v1/atdata.json").exists()
    assert (tmp_path / "bucket/theirs/v1/atdata.json").exists()


def test_index_migrate(run: Any, index: atdata.LocalIndex, tmp_path: Path) -> None:
    place = tmp_path / ".atdata/index.db"
    for arguments in ((), (place,), (f"sqlite:///{place}",)):
        answer = run("index", "migrate", *arguments)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith(f"{place} is up to date already")
    document = run("index", "migrate", "--json").document
    assert document["before"] == document["revision"]
    index.close()
    with sqlite3.connect(place) as connection:
        connection.execute("UPDATE atdata_revision SET version_num = '9999'")
    connection.close()
    newer = run("index", "migrate")
    assert newer.code == 1
    assert "made by a newer atdata" in newer.err
    assert "made by a newer atdata" in run("ls").err


def test_another_index(run: Any, index: atdata.LocalIndex, tmp_path: Path) -> None:
    with atdata.LocalIndex(tmp_path / "other.db", store=atdata.LocalDiskStore(tmp_path / "other")) as other:
        other.write_samples(words("z"), name="words")
    for options in ({"ATDATA_INDEX": "other.db"}, {}):
        more = () if options else ("--index", "other.db")
        assert run("ls", "--json", *more, **options).document["datasets"][0]["samples"] == 1
        assert run("schema", "show", "words", *more, **options).code == 0
        assert "nothing changed" in run("diff", "words", "words@1.0.0", *more, **options).out


def test_a_stranger_s_text_does_not_steer_the_terminal(run: Any, index: atdata.LocalIndex) -> None:
    index.insert_dataset(
        index.get_dataset("words").dataset(), name="evil", description="\x1b[2J\u202e", metadata={"\x1b": "\x1b"}
    )
    for arguments in (("show", "evil"), ("ls",), ("search", "\x1b[2J")):
        answer = run(*arguments)
        assert "\x1b" not in answer.out + answer.err
        assert "\u202e" not in answer.out
