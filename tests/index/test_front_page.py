"""What README.md shows of stores that are servers, run as it stands there with the names of servers of this machine."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray

import atdata
from atdata.atmosphere import Atmosphere
from servers.atproto import SharedNetwork
from servers.rgw import S3Server
from servers.web import WebServer

PAGE = Path(__file__).parents[2] / "README.md"


@atdata.packable
class Digit:
    image: NDArray[np.uint8]
    label: int


def dataset() -> atdata.Dataset[Digit]:
    return atdata.Dataset.from_samples([Digit(np.full((8, 8), n, np.uint8), n) for n in range(25)], Digit)


def labels(found: atdata.Dataset[Any]) -> list[int]:
    return [sample.label for sample in found]


def run(beginning: str, **names: str) -> list[Any]:
    """Run the block that begins so, with other names; what its lines that are no assignments give."""
    page = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(rf"```python\n({re.escape(beginning)}.*?)```", page, re.DOTALL)
    for name, other in names.items():
        assert name in block, f"the page shows no {name}"
        block = block.replace(name, other)
    given: list[Any] = []
    module = types.ModuleType("page")
    vars(module).update(atdata=atdata, Digit=Digit, Atmosphere=Atmosphere, webdataset=webdataset, ds=dataset())
    sys.modules["page"] = module
    try:
        for line in block.splitlines():
            try:
                given.append(eval(line, vars(module)))
            except SyntaxError:
                exec(line, vars(module))
    finally:
        del sys.modules["page"]
    return [*given, vars(module)]


def test_object_storage_and_the_web(
    rgw: S3Server, bucket: str, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in rgw.credentials.items()))
    atdata.LocalDiskStore(web.folder).write_shards(dataset(), prefix="data", maxcount=10)
    url = "https://example.org/data/shard-{000000..000099}.tar"
    plain, stored, served, names = run(
        "store = atdata.S3DataStore(",
        **{"my-bucket": bucket, url: f"{web.endpoint}/data/shard-{{000000..000002}}.tar"},
    )
    assert names["urls"] == [f"s3://{bucket}/training/v1/shard-000000.tar"]
    assert len(list(plain)) == 25
    assert labels(stored) == labels(served) == list(range(25))
    assert any((tmp_path / ".cache" / "atdata").rglob("*")), "the second reading asks no server"


def test_an_account_of_the_network(
    atproto: SharedNetwork,
    on_network: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = atproto.make_account()
    for name, value in {
        "ATDATA_HANDLE": account.handle,
        "ATDATA_APP_PASSWORD": account.password,
        "ATDATA_CACHE": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    plain, by_url, by_prefix, names = run("store = atdata.PDSBlobStore(", **{"did:plc:…": account.did})
    assert names["urls"][0].startswith(f"at://{account.did}/blob/bafkrei")
    assert len(list(plain)) == 25
    assert labels(by_url) == labels(by_prefix) == list(range(25))
    names["store"].client.close()
