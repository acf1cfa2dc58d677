"""Threads that are all the first in their process to read something: none comes upon what another has half learnt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dataset_samples import Digit, digits

import atdata

# Threads give way in the middle of what is learnt of a type, as they do, more seldom, where there are many of them.
PROGRAM = """
import json, pathlib, sys, threading, time
from atdata.index.backend import Part
from atdata.index.survey import refs_in
from atdata.shards.keys import read_keys
from atdata.shards.manifest_file import read_manifest
from atdata.stores.record import CommitRecord

folder = pathlib.Path(sys.argv[1])
record = (folder / "atdata.json").read_bytes()
part = Part("folder/", json.dumps(json.loads(record)["shards"]))
manifest = (folder / "shard-000000.manifest.parquet").read_bytes()

def give_way(frame, event, argument):
    if "typing" in frame.f_code.co_filename or "msgspec" in frame.f_code.co_filename:
        time.sleep(0.001)

def read(work, number):
    time.sleep(number * 0.025)
    try:
        assert work()
    except BaseException as error:
        print(repr(error))

threading.settrace(give_way)
for work in (
    lambda: len(list(refs_in([part]))) == 3,
    lambda: CommitRecord.from_bytes(record).samples == 25,
    lambda: len(read_keys(manifest).keys) == 10,
    lambda: len(read_manifest(manifest)) == 10,
):
    threads = [threading.Thread(target=read, args=(work, number)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("done")
"""


def test_many_threads_that_are_the_first_to_read(tmp_path: Path) -> None:
    atdata.LocalDiskStore(tmp_path).write_shards(
        atdata.Dataset.from_samples(digits(25), Digit), prefix="v1", maxcount=10
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM, str(tmp_path / "v1")],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n", done.stdout
