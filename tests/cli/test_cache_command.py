"""`atdata cache`: what is in it, emptying it, checking it; nothing of anybody else's is touched."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from atdata.stores.cache import Cache


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path):
    """Three shards of 1, 2 and 3 kB, used an hour, ten days and a hundred days ago; and files of somebody else."""
    made = Cache(tmp_path / "cache")
    for n, age in ((1, 3600), (2, 10 * 86400), (3, 100 * 86400)):
        data = bytes([n]) * 1000 * n
        path = made.add(digest(data), lambda data=data: [data], url="u")
        os.utime(path, (time.time() - age,) * 2)
    for name in ("notes.txt", "sha256/mine", "sha256/ab/mine", "new/mine", f"sha256/zz/{'a' * 64}"):
        path = made.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (made.root / "sha256" / "ab" / ("ab" * 32)).symlink_to(made.root / "notes.txt")
    return made


@pytest.fixture
def foreign(cache):
    return {path for path in cache.root.rglob("*") if path.is_symlink() or "mine" in path.name or path.suffix == ".txt"}


DIGESTS = [digest(bytes([n]) * 1000 * n) for n in (1, 2, 3)]


def test_ls(run, cache):
    answer = run("cache", "ls", "--cache", cache.root)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [[sha256, f"{n}.0", "kB"] for n, sha256 in enumerate(DIGESTS, 1)]
    assert lines[3] == f"3 shards, 6.0 kB of 68.7 GB, in {cache.root}"
    document = run("cache", "ls", "--json", ATDATA_CACHE=str(cache.root)).document
    assert [(shard["sha256"], shard["bytes"]) for shard in document["shards"]] == [
        (sha256, n * 1000) for n, sha256 in enumerate(DIGESTS, 1)
    ]
    assert document["bytes"] == 6000
    assert document["limit"] == cache.limit
    assert document["cache"] == str(cache.root)


def test_a_cache_that_is_not_there_is_empty(run, tmp_path):
    assert run("cache", "ls", "--cache", "none").out == f"0 shards, 0 B of 68.7 GB, in {tmp_path}/none\n"
    assert run("cache", "verify", "--cache", "none").code == 0
    assert run("cache", "clear", "--cache", "none").code == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["ls", "clear", "verify"])
def test_which_cache_is_meant(run, tmp_path, command):
    answer = run("cache", command, ATDATA_CACHE="")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "atdata: error: no cache is named: give --cache FOLDER, or set ATDATA_CACHE\n"
    (tmp_path / "file").touch()
    assert "this is none" in run("cache", command, "--cache", "file").err


def test_clear(run, cache, foreign):
    refused = run("cache", "clear", "--cache", cache.root)
    assert refused.code == 1
    assert "3 shards, 6.0 kB would be removed; nobody is here to be asked: give --yes" in refused.err
    assert len(list(cache.shards())) == 3
    old = run("cache", "clear", "--cache", cache.root, "--older-than", "2w", "--yes", "--json").document
    assert old == {"cache": str(cache.root), "removed": [DIGESTS[2]], "bytes": 3000}
    assert run("cache", "clear", "--cache", cache.root, "--older-than", "2h", "--yes").code == 0
    assert [shard.sha256 for shard in cache.shards()] == DIGESTS[:1]
    answer = run("cache", "clear", "--cache", cache.root, "--yes")
    assert answer.out == f"removed 1 shard, 1.0 kB, from {cache.root}\n"
    assert list(cache.shards()) == []
    assert {path for path in cache.root.rglob("*") if path.is_symlink() or path.is_file()} == {
        *foreign, cache.root / "sha256" / "zz" / ("a" * 64),
    }  # fmt: skip


def test_clear_asks_on_a_terminal(terminal, cache):
    for said, left in ((b"n\n", 3), (b"y\n", 0)):
        running = terminal("cache", "clear", "--cache", cache.root, streams=("stdin", "stdout", "stderr"))
        running.until(rb"Remove 3 shards, 6.0 kB, from .*\[y/N\]")
        running.say(said)
        assert running.finish().code == (1 if left else 0)
        assert len(list(cache.shards())) == left


@pytest.mark.parametrize("age", ["7", "d", "-1d", "7 days", "1y", ""])
def test_what_is_no_age(run, cache, age):
    answer = run("cache", "clear", "--cache", cache.root, "--older-than", age, "--yes")
    assert (answer.code, answer.out) == (2, "")
    assert "is no age; say 30m, 12h, 7d or 2w" in answer.err
    assert len(list(cache.shards())) == 3


def test_verify(run, cache, foreign):
    used = [shard.used for shard in cache.shards()]
    answer = run("cache", "verify", "--cache", cache.root)
    assert (answer.code, answer.out, answer.err) == (0, "3 shards, 6.0 kB: none damaged\n", "")
    assert [shard.used for shard in cache.shards()] == used  # that was no use of them
    path = cache.path(DIGESTS[1])
    path.chmod(0o644)
    path.write_bytes(bytes(2000))
    answer = run("cache", "verify", "--cache", cache.root)
    assert answer.code == 1
    assert f"✗ {DIGESTS[1]} was damaged, and is removed" in answer.out
    assert "1 damaged" in answer.out
    assert [shard.sha256 for shard in cache.shards()] == [DIGESTS[0], DIGESTS[2]]
    document = run("cache", "verify", "--cache", cache.root, "--json").document
    assert document == {"cache": str(cache.root), "shards": 2, "bytes": 4000, "removed": []}
    assert all(path.is_symlink() or path.exists() for path in foreign)


def test_what_killed_downloads_left_goes(run, cache, tmp_path):
    left = cache.root / "new" / ("0" * 32)
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    young = cache.root / "new" / ("1" * 32)
    young.write_bytes(b"just begun")
    assert run("cache", "clear", "--cache", cache.root, "--yes").code == 0
    assert not left.exists()
    assert young.exists()
