"""Who somebody is: from a handle to a DID, from a DID to its document, from there to the account's server and key.

Specifications: https://atproto.com/specs/handle, https://atproto.com/specs/did.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from atdata.atmosphere.guard import check_url, needs
from atdata.atmosphere.http import Http
from atdata.atmosphere.syntax import is_did, is_handle, normal_handle, shown
from atdata.atmosphere.xrpc import parse_json
from atdata.errors import AtmosphereError, IdentityError, UnreachableError
from atdata.forks import shared_lock

if TYPE_CHECKING:
    import dns.resolver

__all__ = ["DIRECTORY", "Identity", "Resolver", "keep", "read_document"]

DIRECTORY = "https://plc.directory"
_TTL = 600.0
MOST_KEPT = 10_000
_DOCUMENT = 64 << 10  # bytes
DNS_SECONDS = 5.0

_keeping = shared_lock()


class Identity(NamedTuple):
    """An account, as its DID document describes it.

    Attributes:
        did: its identifier, which never changes.
        handle: its name; None where it was not asked for, or does not lead back to the DID.
        pds: the URL of its server, without a slash at the end.
        signing_key: the key that signs its repository, as a multibase text (`zQ3…` k256, `zDn…` p256).
    """

    did: str
    handle: str | None
    pds: str
    signing_key: str


class Resolver:
    """Finds identities, and remembers them for a while.

    Args:
        directory: the URL of the directory of `did:plc`.
        ttl: seconds for which an identity is remembered.
        http: how documents are fetched.
        handles_at: a server that is asked what handles mean (com.atproto.identity.resolveHandle), instead of DNS and
            the web: for networks whose names are in no DNS, such as those under `.test`. What it says is checked
            against the DID document as any other answer is.
        dns: a resolver of dnspython, instead of one by the system's settings.
    """

    def __init__(
        self,
        *,
        directory: str = DIRECTORY,
        ttl: float = _TTL,
        http: Http | None = None,
        handles_at: str | None = None,
        dns: dns.resolver.Resolver | None = None,
    ) -> None:
        self.http = http or Http()
        self.directory = directory.rstrip("/")
        self.handles_at = handles_at.rstrip("/") if handles_at else None
        self.ttl = ttl
        self._dns = dns
        self._handles: dict[str, tuple[float, str]] = {}
        self._documents: dict[str, tuple[float, _Document]] = {}

    def resolve(self, actor: str, *, fresh: bool = False, handle: bool = True) -> Identity:
        """The identity behind a handle, with or without `@`, or a DID.

        A handle has to lead to a DID whose document names that handle. Of a DID, the handle that its document names is
        looked up and left out (None) unless it leads back.

        Args:
            actor: a handle or DID.
            fresh: ask anew, also where it is remembered.
            handle: whether the handle is wanted; reading by DID needs none, and saves the look-up.

        Raises:
            AddressError: it is neither.
            IdentityError: it cannot be found, or both directions do not agree.
            UnreachableError: who knows does not answer.
        """
        if is_did(actor):
            document = self._document(actor, fresh)
            name = self._checked_handle(document) if handle else None
            return Identity(document.did, name, document.pds, document.key)
        name = normal_handle(actor)
        did = self._did_of(name, fresh)
        document = self._document(did, fresh)
        if name not in document.handles:
            # What is remembered of the document may be older than the handle.
            document = self._document(did, True)
        if name not in document.handles:
            claims = f"names {', '.join(document.handles[:3])}" if document.handles else "names no handle"
            raise IdentityError(f"the handle {name} leads to {did}, but the document of that account {claims}")
        return Identity(document.did, name, document.pds, document.key)

    def forget(self, did: str) -> None:
        """Ask anew the next time: the account may have moved."""
        self._documents.pop(did, None)

    # -- from a handle to a DID

    def _checked_handle(self, document: _Document) -> str | None:
        for name in document.handles[:1]:
            try:
                if self._did_of(name, False) == document.did:
                    return name
            except AtmosphereError:
                return None
        return None

    def _did_of(self, handle: str, fresh: bool) -> str:
        kept = self._handles.get(handle)
        if kept is not None and not fresh and time.monotonic() < kept[0]:
            return kept[1]
        if self.handles_at is not None:
            did = self._by_server(handle, self.handles_at)
        elif handle.endswith(".test") and self._dns is None:
            raise IdentityError(
                f"the handle {handle} is of a test network, which no DNS knows: say by handles_at=, or "
                "ATDATA_HANDLES_AT, the URL of a server that knows it"
            )
        else:
            did, why = self._by_dns(handle)
            did = did or self._by_web(handle, why)
        if not is_did(did):
            raise IdentityError(f"the handle {handle} leads to {shown(did)}, which is no DID")
        keep(self._handles, handle, (time.monotonic() + self.ttl, did))
        return did

    def _by_server(self, handle: str, server: str) -> str:
        answer = self.http.ask(
            "GET", f"{server}/xrpc/com.atproto.identity.resolveHandle?handle={quote(handle)}", limit=_DOCUMENT
        )
        if answer.status in (400, 404):
            raise IdentityError(f"{server} knows no handle {handle}")
        found = parse_json(answer.body) if answer.status == 200 else None
        if not isinstance(found, dict) or not isinstance(found.get("did"), str):
            raise IdentityError(f"{server} cannot say what the handle {handle} means: it answers {answer.status}")
        return str(found["did"])

    def _by_dns(self, handle: str) -> tuple[str, str]:
        """The DID in the TXT record of `_atproto.` before the handle; "" where there is none, and why."""
        try:
            import dns.exception
            import dns.resolver
        except ImportError:
            raise needs("dnspython") from None
        try:
            resolver = self._dns or dns.resolver.get_default_resolver()
            answers = resolver.resolve(f"_atproto.{handle}.", "TXT", lifetime=DNS_SECONDS)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return "", f"there is no DNS record _atproto.{handle}"
        except dns.exception.DNSException as error:
            return "", f"the DNS cannot say what _atproto.{handle} is ({type(error).__name__})"
        texts = [b"".join(each.strings) for each in answers]
        dids = {text[4:].decode("ascii", "replace") for text in texts if text.startswith(b"did=")}
        if len(dids) > 1:
            raise IdentityError(f"the DNS names several accounts for the handle {handle}: {', '.join(sorted(dids))}")
        return (dids.pop(), "") if dids else ("", f"the DNS record _atproto.{handle} names no DID")

    def _by_web(self, handle: str, why: str) -> str:
        try:
            answer = self.http.ask("GET", f"https://{handle}/.well-known/atproto-did", limit=8 << 10, redirects=True)
        except UnreachableError as error:
            raise IdentityError(
                f"the handle {handle} leads nowhere: {why}, and no web server answers ({error.message})"
            ) from error
        if answer.status != 200:
            raise IdentityError(
                f"the handle {handle} leads nowhere: {why}, and its web server answers {answer.status} for "
                "/.well-known/atproto-did"
            )
        return answer.body.decode("ascii", "replace").strip()

    # -- from a DID to its document

    def _document(self, did: str, fresh: bool) -> _Document:
        kept = self._documents.get(did)
        if kept is not None and not fresh and time.monotonic() < kept[0]:
            return kept[1]
        url = self._document_url(did)
        answer = self.http.ask("GET", url, limit=_DOCUMENT, redirects=True)
        if answer.status in (404, 410):
            gone = "is gone: its account was deleted" if answer.status == 410 else "is not known"
            raise IdentityError(f"{did} {gone}", url=url)
        if answer.status != 200:
            raise UnreachableError(f"the document of {did} cannot be had: the server answers {answer.status}", url=url)
        document = read_document(did, parse_json(answer.body), url, allow_private=self.http.allow_private)
        keep(self._documents, did, (time.monotonic() + self.ttl, document))
        return document

    def _document_url(self, did: str) -> str:
        method, _, rest = did[4:].partition(":")
        if method == "plc":
            return f"{self.directory}/{did}"
        if method != "web":
            raise IdentityError(f"{did} is of a kind that cannot be looked up; did:plc and did:web can")
        host = unquote(rest)
        name = host.partition(":")[0]
        local = name == "localhost" and self.http.allow_private
        if ":" in rest or not (local or is_handle(name)) or not all(c.isalnum() or c in "-.:" for c in host):
            raise IdentityError(f"{shown(did)} names no web server; paths are not for this network")
        return f"{'http' if local else 'https'}://{host}/.well-known/did.json"


class _Document(NamedTuple):
    did: str
    handles: tuple[str, ...]
    pds: str
    key: str


def read_document(did: str, document: Any, url: str, *, allow_private: bool) -> _Document:
    """What a DID document says of an account."""

    def wrong(what: str) -> IdentityError:
        return IdentityError(f"the document of {did} {what}", url=url)

    if not isinstance(document, dict):
        raise wrong("is no JSON object")
    if document.get("id") != did:
        raise wrong(f"is that of {shown(document.get('id'))}")
    names = document.get("alsoKnownAs")
    handles = tuple(
        name[5:].lower()
        for name in (names if isinstance(names, list) else [])
        if isinstance(name, str) and name.startswith("at://") and is_handle(name[5:])
    )
    service = _entry(document.get("service"), did, "#atproto_pds")
    if service is None or service.get("type") != "AtprotoPersonalDataServer":
        raise wrong("names no server that keeps its data (#atproto_pds)")
    pds = service.get("serviceEndpoint")
    if not isinstance(pds, str) or len(pds) > 2000:
        raise wrong("names no URL of the server that keeps its data")
    check_url(pds, allow_private=allow_private)
    parts = urlsplit(pds)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong(f"names {shown(pds)} as its server, which is more than a server")
    method = _entry(document.get("verificationMethod"), did, "#atproto")
    key = method.get("publicKeyMultibase") if method else None
    if not isinstance(key, str) or not key.startswith("z") or len(key) > 200:
        raise wrong("names no key that signs its data (#atproto)")
    return _Document(did, handles, pds.rstrip("/"), key)


def _entry(entries: Any, did: str, name: str) -> dict[str, Any] | None:
    """The first entry of that name, written with the DID or without."""
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("id") in (name, did + name):
            return entry
    return None


def keep(kept: dict[str, Any], name: str, value: Any) -> None:
    """Put `value` into `kept`, and let the oldest go where they are too many; threads may share it."""
    with _keeping:
        while len(kept) >= MOST_KEPT:
            del kept[next(iter(kept))]
        kept[name] = value
