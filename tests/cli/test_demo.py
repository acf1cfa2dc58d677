"""`atdata demo`, from the first line to the last."""

from __future__ import annotations

import shlex
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from cli_process import environment

import atdata


def test_it_runs_and_what_it_says_is_true(run, tmp_path):
    answer = run("demo", "--to", "my demo", "--json")
    assert (answer.code, answer.err) == (0, "")
    told = answer.document
    ds = atdata.Dataset(tmp_path / "my demo" / "digits" / "v1")
    assert (told["cid"], told["samples"]) == (ds.cid, len(ds)) == (told["cid"], 1797)
    assert ds.sample_type.__name__ == "Digit"
    assert told["accuracy"] > 0.8
    assert told["accuracy"] == told["correct"] / told["held_out"]
    assert told["trained_on"] + told["held_out"] == 1797
    with PIL.Image.open(tmp_path / told["contact_sheet"]) as sheet:
        sheet.load()
        assert sheet.format == "PNG"
        assert len(np.unique(np.asarray(sheet))) > 10
    assert [s["what"] for s in told["speed"]] == ["sample by sample", "batches of 64"]
    assert all(s["ratio"] > 0 for s in told["speed"])
    assert len(told["try_next"]) == 3
    for command in told["try_next"]:
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment(), capture_output=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), command


def test_a_second_run_works_and_shows_its_steps(run, tmp_path):
    first, again = run("demo"), run("demo")
    assert first.code == again.code == 0
    assert again.err == ""
    for text in (
        "@atdata.packable",
        'store = atdata.LocalDiskStore("demo-data")',
        'digits = atdata.Dataset("demo-data/digits/v1")',
        "├── shard-000000.tar",
        "sha256 ",
        "accuracy ",
        "demo-data/contact-sheet.png",
        "webdataset",
        "Try next",
    ):
        assert text in again.out
    cids = [line for answer in (first, again) for line in answer.out.splitlines() if "Content identifier" in line]
    assert len(cids) == 2
    assert len(set(cids)) == 1  # the same samples give the same bytes


def test_it_does_not_overwrite_what_is_not_its_own(run, tmp_path, dataset):
    folder = tmp_path / "mine" / "digits"
    folder.mkdir(parents=True)
    dataset.rename(folder / "v1")
    answer = run("demo", "--to", "mine")
    assert (answer.code, answer.out) == (1, "")
    assert "choose another folder with --to" in answer.err
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "contact-sheet.png").write_bytes(b"mine")
    assert run("demo", "--to", "pictures").code == 1
    assert (tmp_path / "pictures" / "contact-sheet.png").read_bytes() == b"mine"


@pytest.mark.parametrize("missing", ["sklearn", "webdataset"])
def test_a_missing_package_is_said_with_how_to_get_it(tmp_path, missing):
    code = f"import sys\nsys.modules[{missing!r}] = None\nsys.argv = ['x', 'demo']\nfrom atdata import cli\ncli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'atdata[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_network_half_publishes_finds_verifies_and_streams(run):
    answer = run("demo", "--network", "--json")
    assert (answer.code, answer.err) == (0, "")
    told = answer.document["network"]
    assert told["uri"].startswith("at://did:plc:")
    assert told["verified"] is True
    assert told["samples"] == 1797
