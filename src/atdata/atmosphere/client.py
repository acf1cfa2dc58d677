"""`Atmosphere`: a client of the AT Protocol network."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import EllipsisType, TracebackType
from typing import Any, Self, TypeVar

from atdata.atmosphere import blobs, repository
from atdata.atmosphere.credentials import Account, Credentials, choose
from atdata.atmosphere.http import Http
from atdata.atmosphere.identity import DIRECTORY, Identity, Resolver, keep
from atdata.atmosphere.proof import Proven
from atdata.atmosphere.repository import Record, Write, Written
from atdata.atmosphere.session import PasswordSession
from atdata.atmosphere.syntax import AtUri, is_did, is_me
from atdata.atmosphere.xrpc import Auth, Xrpc
from atdata.errors import LoginError, ProofError, UnreachableError, XrpcError

__all__ = ["Atmosphere", "Record", "Write", "Written"]

_BLOB_LIMIT = 5 << 20  # bytes: the default of the reference PDS, for a server that does not say

T = TypeVar("T")


class Atmosphere:
    """A client of the network, with an account that is logged in, or without. Threads may share one.

    Args:
        directory: the URL of the directory of `did:plc`; by default `ATDATA_PLC_DIRECTORY`, or https://plc.directory.
        allow_private: whether plain http, loopback and private addresses may be opened: for a network on this machine;
            by default, whether `ATDATA_ALLOW_PRIVATE` is 1.
        handles_at: a server that is asked what handles mean, instead of DNS and the web: for networks whose names are
            in no DNS, such as those under `.test`; by default `ATDATA_HANDLES_AT`.
        auth: who is logged in; see `Atmosphere.login`.
        identity: the account that is logged in.

    Example:
        >>> with Atmosphere() as client:
        ...     print(client, client.did)
        Atmosphere(anonymous) None
    """

    def __init__(
        self,
        *,
        directory: str | None = None,
        allow_private: bool | None = None,
        handles_at: str | None = None,
        auth: Auth | None = None,
        identity: Identity | None = None,
    ) -> None:
        env = os.environ
        self.allow_private = env.get("ATDATA_ALLOW_PRIVATE") == "1" if allow_private is None else allow_private
        self.directory = directory or env.get("ATDATA_PLC_DIRECTORY") or DIRECTORY
        self.http = Http(allow_private=self.allow_private)
        self.resolver = Resolver(
            directory=self.directory, http=self.http, handles_at=handles_at or env.get("ATDATA_HANDLES_AT")
        )
        self.auth = auth
        self.identity = identity
        # Of repositories, the latest that was seen: for as long as this client is there. On disk it would outlast the
        # repair of a repository from a backup, which is no attack, and would have to be told of by hand.
        self._revisions: dict[str, str] = {}
        self._blob_limit: int | None = None
        self._base: str | None = None
        # Who logs in anew where this client was pickled to: a saved login, or that of the environment.
        self._again: str | None = None

    @classmethod
    def login(
        cls,
        identifier: str | None = None,
        password: str | None = None,
        *,
        pds_url: str | None = None,
        directory: str | None = None,
        allow_private: bool | None = None,
        handles_at: str | None = None,
    ) -> Self:
        """Log in by password; without one, with the login that the environment names or `atdata login` saved.

        Args:
            identifier: handle or DID. Without a password, of a saved login; by default `ATDATA_HANDLE` (with
                `ATDATA_APP_PASSWORD`, where there is one), or the account that was logged in last.
            password: best an app password, which can be revoked by itself.
            pds_url: the account's server, used as it is given; by default the one that its identity names.
            directory: see `Atmosphere`.
            allow_private: see `Atmosphere`.
            handles_at: see `Atmosphere`; for a handle under `.test`, by default `pds_url`.

        Raises:
            LoginError: the password is wrong, or does not suffice; or nobody has logged in.
            IdentityError: there is no such account.
        """
        if identifier is None and password is not None:
            raise LoginError("a password is given, and nobody it belongs to: give a handle too")
        who = choose(identifier) if password is None else (str(identifier), password)
        if isinstance(who, Account):
            name, pds_url = who.handle or who.did, who.pds if who.given else None
        else:
            name = who[0].removeprefix("@")
        if pds_url is not None and name.endswith(".test") and handles_at is None:
            handles_at = os.environ.get("ATDATA_HANDLES_AT") or pds_url
        client = cls(directory=directory, allow_private=allow_private, handles_at=handles_at)
        try:
            if isinstance(who, Account):
                client._resume(who)
            else:
                client._enter(name, who[1], pds_url)
        except BaseException:
            client.close()
            raise
        if password is None:
            client._again = who.did if isinstance(who, Account) else name
        return client

    def _enter(self, name: str, password: str, pds_url: str | None) -> None:
        base = pds_url
        wanted = name if is_did(name) else None
        if base is None:
            found = self.resolver.resolve(name, handle=False)
            base, wanted = found.pds, found.did
        session = PasswordSession.create(base, self.http, name, password)
        if self.identity is not None:  # of where this client was pickled
            wanted = self.identity.did
        if wanted not in (None, session.did):
            raise LoginError(f"the server logged in {session.did} instead of {wanted}", url=base)
        identity = self.resolver.resolve(session.did)
        self.auth, self.identity, self._base = session, identity, pds_url

    def _resume(self, account: Account) -> None:
        from atdata.atmosphere.login import resume

        identity = self.resolver.resolve(account.did)
        if not account.given and identity.pds != account.pds:
            raise LoginError(
                f"{account.handle or account.did} has moved to {identity.pds} since the login: run atdata login again",
                url=account.pds,
            )
        self.auth, self.identity = resume(account, self.http, Credentials()), identity
        self._base = account.pds if account.given else None

    @property
    def did(self) -> str | None:
        """The DID of the account that is logged in; None when nobody is."""
        if self.auth is None:
            return self.identity.did if self._again and self.identity else None
        return self.auth.did

    @property
    def handle(self) -> str | None:
        """Its handle; None where it has none that leads to it, or nobody is logged in."""
        return None if self.identity is None else self.identity.handle

    def __repr__(self) -> str:
        return f"Atmosphere({(self.handle or self.did or 'anonymous')})"

    def __reduce__(self) -> Any:
        again = (self._again, self.identity, self._base) if self._again is not None else None
        place = (self.directory, self.allow_private, self.resolver.handles_at)
        return (_unpickled, (place, dict(self._revisions), again))

    def resolve(self, actor: str) -> Identity:
        """The identity behind a handle, with or without `@`, or a DID; see `Resolver.resolve`.

        `@me` is the account that is logged in; of an anonymous client, the one whose login is saved, or that the
        environment names.

        Raises:
            LoginError: it is `@me`, and nobody is logged in.
        """
        return self.resolver.resolve(self._me() if is_me(actor) else actor)

    def _me(self) -> str:
        if self.did is not None:
            return self.did
        who = choose()
        return who.did if isinstance(who, Account) else who[0]

    # -- records

    def get_record(self, uri: AtUri | str, *, proof: bool = True) -> Record | None:
        """A record, asked for at its account's own server; None where there is none.

        Args:
            uri: of the record, by DID or handle.
            proof: whether to have it proved that this is what the account signed, or that it has no such record; see
                `proof.prove`. Without, the server is believed.

        Raises:
            ProofError: the proof does not hold, or the repository is older than this client has seen it before.
            XrpcError: the server does not have the account.
        """
        uri = AtUri.parse(uri) if isinstance(uri, str) else uri
        did = self._did_of(uri.authority)
        uri = uri._replace(authority=did)
        if not proof:
            return self._at_home(did, lambda server: repository.read_record(server, uri))
        proven = self._at_home(did, lambda server: self._proved(server, uri))
        if proven is None or proven.value is None:
            return None
        return Record(uri, proven.cid or "", proven.value)

    def prove_record(self, uri: AtUri | str) -> Proven | None:
        """What an account has signed of one of its records, or that it has none; None where its server only says so.

        Args:
            uri: of the record, by DID or handle.

        Raises:
            ProofError: the proof does not hold, or the repository is older than this client has seen it before.
            XrpcError: the server does not have the account.
        """
        uri = AtUri.parse(uri) if isinstance(uri, str) else uri
        did = self._did_of(uri.authority)
        return self._at_home(did, lambda server: self._proved(server, uri._replace(authority=did)))

    def list_records(self, actor: str, collection: str, *, reverse: bool = False) -> Iterator[Record]:
        """The records of one collection of an account, as its server lists them; asked for page by page.

        Args:
            actor: handle, DID, or `@me`.
            collection: the NSID of the kind of record.
            reverse: by ascending keys, instead of descending ones.
        """
        did = self._did_of(actor)
        return self._anew(did, lambda server: repository.list_records(server, did, collection, reverse=reverse))

    def apply_writes(self, writes: Sequence[Write], *, swap_commit: str | None = None) -> list[Written]:
        """Change many records of the own account; see `repository.apply_writes`."""
        did, server = self._writing()
        return repository.apply_writes(server, did, writes, swap_commit=swap_commit)

    def put_record(
        self, collection: str, rkey: str, value: Mapping[str, Any], *, swap_record: str | EllipsisType | None = ...
    ) -> Written:
        """Make or replace a record of the own account; see `repository.put_record`."""
        did, server = self._writing()
        return repository.put_record(server, did, collection, rkey, value, swap_record)

    def delete_record(self, collection: str, rkey: str) -> None:
        """Remove a record of the own account; nothing happens where there is none."""
        did, server = self._writing()
        repository.delete_record(server, did, collection, rkey)

    def latest_commit(self) -> str:
        """The CID of the own repository's latest commit, for `apply_writes` to hold on to."""
        did, server = self._writing()
        return repository.latest_commit(server, did)

    # -- blobs

    @property
    def blob_limit(self) -> int:
        """Bytes of the largest blob that the own account's server takes."""
        if self._blob_limit is None:
            _, server = self._writing()
            said = Xrpc(server.base, self.http).query("com.atproto.server.describeServer").get("blobUploadLimit")
            self._blob_limit = said if isinstance(said, int) and said > 0 else _BLOB_LIMIT
        return self._blob_limit

    def upload_blob(
        self, data: bytes | Iterable[bytes], size: int, mime: str, *, sha256: str | None = None
    ) -> dict[str, Any]:
        """Send bytes to the own account, and give the blob object to put into a record; see `blobs.upload_blob`.

        Nobody can read them before a record names them, and some servers forget those that none does.
        """
        _, server = self._writing()
        return blobs.upload_blob(server, data, size, mime, sha256=sha256)

    def blob_url(self, did: str, cid: str) -> str:
        """The https URL that gives a blob's bytes, at the server of the account that it belongs to."""
        identity = self.resolver.resolve(did, handle=False)
        return Xrpc(identity.pds, self.http).url("com.atproto.sync.getBlob", {"did": did, "cid": blobs.check_cid(cid)})

    def blob_chunks(self, did: str, cid: str, *, limit: int | None = None) -> Iterator[bytes]:
        """The bytes of a blob as they come, checked at the end; see `blobs.blob_chunks`."""
        return self._anew(did, lambda server: blobs.blob_chunks(server, did, cid, limit=limit))

    def blob_size(self, did: str, cid: str) -> int:
        """The bytes that a blob has, as its server says."""
        return self._at_home(did, lambda server: blobs.blob_size(server, did, cid))

    def list_blobs(self, actor: str) -> Iterator[str]:
        """The CIDs of the blobs of an account that its records name; asked for page by page."""
        did = self._did_of(actor)
        return self._anew(did, lambda server: blobs.list_blobs(server, did))

    def close(self) -> None:
        """Close the connections; they are made anew when needed."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _proved(self, server: Xrpc, uri: AtUri) -> Proven | None:
        did = uri.authority
        since = self._revisions.get(did)  # before it is asked for: other threads may see newer ones meanwhile
        account = self.resolver.resolve(did, handle=False)
        try:
            proven = repository.prove_record(server, account, uri, since)
        except ProofError as error:
            if error.link != "signature":
                raise
            now = self.resolver.resolve(did, handle=False, fresh=True)
            if now.signing_key == account.signing_key:
                raise
            proven = repository.prove_record(server, now, uri, since)
        if proven is not None:
            keep(self._revisions, did, max(proven.rev, self._revisions.get(did, "")))
        return proven

    def _did_of(self, actor: str) -> str:
        return actor if is_did(actor) else self.resolve(actor).did

    def _reading(self, did: str) -> Xrpc:
        """The server of an account, asked as anybody may ask it."""
        if did == self.did and self._base is not None:
            return Xrpc(self._base, self.http)
        return Xrpc(self.resolver.resolve(did, handle=False).pds, self.http)

    def _at_home(self, did: str, ask: Callable[[Xrpc], T]) -> T:
        """What the account's server answers; where that is not its server any more, the one that is now."""
        server = self._reading(did)
        try:
            return ask(server)
        except (UnreachableError, XrpcError) as error:
            # Servers have no one name for an account that is not theirs, or is no more.
            if isinstance(error, XrpcError) and error.status not in (400, 404):
                raise
            self.resolver.forget(did)
            now = self._reading(did)
            if now.base == server.base:
                raise
            return ask(now)

    def _anew(self, did: str, ask: Callable[[Xrpc], Iterator[T]]) -> Iterator[T]:
        """The same for what comes one after the other: it is the first that says whether the server has the account."""
        first, rest = self._at_home(did, lambda server: _begun(ask(server)))
        yield from first
        yield from rest

    def _log_in_again(self) -> None:
        """As `login` did in the process that this client was pickled in; now that it is needed."""
        who = choose(self._again)
        if isinstance(who, Account):
            self._resume(who)
        else:
            self._enter(who[0].removeprefix("@"), who[1], self._base)

    def _writing(self) -> tuple[str, Xrpc]:
        """The own account and its server."""
        if self.auth is None and self._again is not None:
            self._log_in_again()
        if self.auth is None or self.identity is None:
            raise LoginError("nobody is logged in: use Atmosphere.login")
        return self.auth.did, Xrpc(self._base or self.identity.pds, self.http, self.auth)


def _unpickled(
    place: tuple[str, bool, str | None], revisions: dict[str, str], again: tuple[str, Identity, str | None] | None
) -> Atmosphere:
    directory, allow_private, handles_at = place
    client = Atmosphere(directory=directory, allow_private=allow_private, handles_at=handles_at)
    client._revisions = revisions
    if again is not None:
        client._again, client.identity, client._base = again
    return client


def _begun(found: Iterator[T]) -> tuple[list[T], Iterator[T]]:
    return list(itertools.islice(found, 1)), found
