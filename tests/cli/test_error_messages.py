"""Wrong questions: one clear message on stderr, the right exit code, no traceback."""

from __future__ import annotations

import os
import subprocess

import pytest
from cli_process import ATDATA, environment

COMMANDS = [("inspect",), ("head",), ("verify",), ("manifest", "build")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_is_not_there(run, command):
    answer = run(*command, "nowhere/at-all")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "atdata: error: there is no such file [nowhere/at-all]\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_with_no_dataset(run, tmp_path, command):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.tar").touch()
    answer = run(*command, "folder", "--json")
    assert answer.code == 1
    assert answer.document["error"]["type"] == "DatasetNotFoundError"
    assert answer.err.startswith(
        "atdata: error: there is no dataset in this folder (no atdata.json); it holds 1 tar file"
    )
    assert len(answer.err.splitlines()) == 1


def test_a_url_of_a_kind_that_cannot_be_read(run):
    answer = run("verify", "gopher://there/x.tar")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert answer.err.startswith("atdata: error: ")


def test_no_schema_is_stored(run, dataset, tmp_path):
    (tmp_path / "alone.tar").write_bytes((dataset / "shard-000000.tar").read_bytes())
    answer = run("schema", "show", "alone.tar")
    assert (answer.code, answer.out) == (1, "")
    assert "no schema is stored with it" in answer.err


def test_a_typo_in_a_command(run):
    answer = run("inspct", "x")
    assert (answer.code, answer.out) == (2, "")
    assert "No such command 'inspct'" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("head", "x", "--nonsense"), "No such option"),
        (("head", "x", "-n", "many"), "'-n'"),
        (("head", "x", "-n", "0"), "'-n'"),
        (("verify",), "Missing argument"),
        (("manifest", "biuld", "x"), "No such command"),
    ],
)
def test_wrong_options(run, arguments, message):
    answer = run(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


def test_the_traceback_is_shown_when_asked_for(run):
    answer = run("verify", "nowhere", ATDATA_DEBUG="1")
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert answer.err.endswith("atdata: error: there is no such file [nowhere]\n")


def test_a_name_that_would_steer_the_terminal(run):
    assert "\x1b" not in run("verify", "\x1b[2Jx").err


def test_a_reader_that_goes_away(dataset):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*ATDATA, "head", str(dataset), "-n", "150"],
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
        timeout=120,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_for_the_answer(dataset):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*ATDATA, "inspect", str(dataset), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (1, b"atdata: error: No space left on device\n")
