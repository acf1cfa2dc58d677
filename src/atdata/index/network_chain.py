"""The links of the chain on the network: from an account's key to the commit record of what it has published."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atdata.atmosphere.keys import parse_key
from atdata.atmosphere.syntax import AtUri
from atdata.errors import AtdataError, EntryNotFoundError, ProofError, RecordError, UnsafeUrlError
from atdata.index.chain import ChainLink

if TYPE_CHECKING:
    from atdata.atmosphere.client import Atmosphere
    from atdata.index.network_entry import AtmosphereEntry

__all__ = ["BrokenLinkError", "NetworkChain"]

_SIGNED = ("path", "record")  # where a proof breaks whose signature is right


class BrokenLinkError(Exception):
    """Ends the way down the chain; `error` says why, and `link` where."""

    def __init__(self, link: ChainLink, error: AtdataError) -> None:
        super().__init__(error.message)
        self.link = link
        self.error = error


class NetworkChain:
    """The chain from an account to the shards of a dataset that it has published.

    Args:
        client: of the network.

    Attributes:
        links: "account", "signed commit", "record" and "commit record".
    """

    def __init__(self, client: Atmosphere) -> None:
        self._client = client
        names = ("account", "signed commit", "record", "commit record")
        self.links = [ChainLink(name, checked="not reached") for name in names]

    def follow(self, find: Callable[[], AtmosphereEntry]) -> AtmosphereEntry:
        """Go down link by link; of the entry that is given, `found` is known.

        Args:
            find: looks the dataset up, and has its record proved.

        Raises:
            BrokenLinkError: a link does not hold.
            AtdataError: there is no such dataset or account, or its server does not answer.
        """
        _, _, record, document = self.links
        try:
            entry = find()
            self._prove(entry.uri, entry.record_cid)
        except ProofError as error:
            raise self._unproved(error) from error
        except RecordError as error:  # what was signed makes no sense
            if error.url is not None and error.url.startswith("at://"):
                self._prove(error.url)
            raise BrokenLinkError(record, error) from error
        try:
            found = entry.found
        except (RecordError, UnsafeUrlError) as error:
            raise BrokenLinkError(record, error) from error
        except AtdataError as error:
            raise BrokenLinkError(document, error) from error
        if found.located.record is not None:
            cid = found.located.record.cid
            _holds(document, f"SHA-256 as the record says; {cid} is what its shards' digests give")
        else:
            document.checked = "none: the record itself says where shards lie, and perhaps their digests"
        return entry

    def _prove(self, address: str, cid: str | None = None) -> None:
        """Have a record proved, and note by what."""
        _, commit, record, _ = self.links
        uri = AtUri.parse(address)
        self._account(uri.authority)
        proven = self._client.prove_record(uri)
        if proven is None or proven.cid is None or cid not in (None, proven.cid):
            raise EntryNotFoundError(f"{uri} was changed or deleted while it was looked at")
        _holds(commit, f"{proven.commit} of revision {proven.rev} is signed with that key")
        _holds(record, f"{uri}, which is {proven.cid}, is in its tree")

    def _unproved(self, error: ProofError) -> BrokenLinkError:
        """Which link it is that a proof broke at; those above it hold."""
        _, commit, record, _ = self.links
        if error.url is not None:
            self._account(AtUri.parse(error.url).authority)
        if error.link not in _SIGNED:
            return BrokenLinkError(commit, error)
        _holds(commit, "signed with that key")
        return BrokenLinkError(record, error)

    def _account(self, did: str) -> None:
        """Who it is, in both directions, and the key."""
        identity = self._client.resolve(did)
        key = parse_key(identity.signing_key)
        name = f"@{identity.handle} is {did}" if identity.handle else f"{did}, without a handle that leads to it,"
        _holds(self.links[0], f"{name}{' in both directions, and' if identity.handle else ''} signs with {key.text}")


def _holds(link: ChainLink, checked: str) -> None:
    link.state, link.checked = "ok", checked
