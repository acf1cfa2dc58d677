"""The demo's second half: the digits on an AT Protocol network that runs on this machine for as long as it takes."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from atdata.cli.demo import network
from atdata.cli.demo.telling import Telling
from atdata.cli.reporting import clean, count, size
from atdata.errors import AtmosphereError

__all__ = ["Sharing"]


class Sharing(Telling):
    """Publish, find, verify, stream."""

    def run(self, digits: Any) -> dict[str, Any]:
        """Tell it all; what there is to say in the JSON document."""
        from atdata.testing.network import LocalNetwork, LocalNetworkError

        try:
            with LocalNetwork(pds=1) as local, _known(local.directory, local.pds[0]):
                return self._told(digits, local.make_account(handle="alice.test"))
        except LocalNetworkError as error:
            raise AtmosphereError(
                f"the demo's network cannot be had: {error}. In a checkout, `make demo ARGS=--network` sets it up"
            ) from None

    def _told(self, digits: Any, alice: Any) -> dict[str, Any]:
        self.title("Alice has an account on the AT Protocol network")
        self.report.print(
            "A directory of accounts and a server (PDS), the reference ones, now run on this machine, with an account\n"
            f"for Alice: {alice.handle}, which means {alice.did}.\n"
        )
        self.code(network.log_in, handle=alice.handle)
        with network.log_in(alice.handle, alice.password) as client:
            self.title("She publishes the digits under her name")
            self.code(network.publish)
            start = time.perf_counter()
            entry = network.publish(client, digits)
            seconds = time.perf_counter() - start
        self.report.print(
            f"Published in {seconds:.2f} s. The shards are blobs in her account; this record, which her key signs,\n"
            f"names them by their digests:\n    {entry.uri}\nContent identifier: {entry.cid}"
        )
        self.title("Anyone finds them, without an account")
        self.code(network.find, handle=alice.handle)
        for found in network.find(alice.handle):
            self.report.print(
                f"{clean(found.name)}@{found.version}  {count(found.samples, 'sample')}, {size(found.size)}, "
                f"{clean(str(found.license))}, {clean(', '.join(found.tags))}"
            )
        self.title("Anyone can prove that every byte is what she signed")
        self.code(network.verify, handle=alice.handle)
        report = network.verify(alice.handle)
        self.report.print(clean(str(report)).replace("\\n", "\n"))
        self.report.print("\nEach line vouches for the next. No word of the server's was taken for any of it.")
        self.title("And trains on them")
        self.code(network.stream, handle=alice.handle)
        labels = network.stream(alice.handle)
        per = ", ".join(f"{digit}: {n}" for digit, n in sorted(Counter(labels).items()))
        self.report.print(f"{count(len(labels), 'label')} in batches of 64, shuffled; of each digit {per}.")
        return {"uri": entry.uri, "cid": entry.cid, "verified": report.ok, "samples": len(labels)}


@contextlib.contextmanager
def _known(directory: str, pds: str) -> Iterator[None]:
    """Have this process look accounts up on the local network, where handles are in no DNS and nothing has TLS."""
    world = {"ATDATA_PLC_DIRECTORY": directory, "ATDATA_HANDLES_AT": pds, "ATDATA_ALLOW_PRIVATE": "1"}
    before = {name: os.environ.get(name) for name in world}
    os.environ.update(world)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
