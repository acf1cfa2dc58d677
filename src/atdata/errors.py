"""Every exception a user of atdata may catch.

```
AtdataError
├── SampleError                  one sample does not fit its type
│   ├── SampleTypeError          a value that cannot be written as its field's type (also TypeError)
│   └── SampleDecodeError        bytes that cannot be read as the sample type (also ValueError)
├── SchemaError                  a sample type or stored schema that makes no sense (also ValueError)
├── ShardError                   something is wrong with one shard
│   ├── ShardFormatError         the tar archive is malformed or holds what a shard may not hold (also ValueError)
│   │   └── TruncatedShardError  the archive ends before its end marker
│   ├── ManifestError            a manifest that is malformed or belongs to another shard (also ValueError)
│   └── IntegrityError           bytes differ from their recorded digest, size or count
├── StoreError                   a data store could not do what was asked
│   ├── DatasetNotFoundError     no dataset or shard at that place (also FileNotFoundError)
│   ├── DatasetExistsError       a dataset is there already (also FileExistsError)
│   ├── StoreBusyError           another writer is at work on that prefix
│   ├── AccessDeniedError        the credentials do not allow it (also PermissionError)
│   ├── ForkError                a forked process may not use its parent's connections
│   ├── CommitRecordError        an atdata.json that cannot be trusted (also ValueError)
│   └── UnsafeNameError          a name that would leave its place (also ValueError)
├── DatasetError                 a dataset cannot be read that way
│   ├── EmptyDatasetError        there is nothing to write (also ValueError)
│   ├── SampleKeyError           no sample has that key (also KeyError)
│   ├── SampleIndexError         no sample has that number (also IndexError)
│   ├── SplitError               which split a shard belongs to cannot be told (also ValueError)
│   │   └── SplitNotFoundError   the dataset has no such split (also KeyError)
│   ├── QueryError               a predicate asks what a field's type does not allow (also TypeError)
│   ├── StateError               the state of a loader is of something else (also ValueError)
│   └── StepError                a user's function in `map` or `filter` raised
├── LensError                    one sample type cannot be seen as another that way
│   ├── LensDefinitionError      the declaration of a lens makes no sense (also TypeError)
│   ├── LensRecordError          a stored lens that is malformed or means another one (also ValueError)
│   ├── LensValueError           a value that the lens cannot carry over (also ValueError)
│   ├── LensNotFoundError        no lens leads from one type to the other (also LookupError)
│   ├── AmbiguousLensError       several lenses, or paths of them, lead there (also LookupError)
│   └── LensLawError             a lens does not keep what it was given
├── CatalogError                 an index of datasets could not do what was asked
│   ├── EntryNotFoundError       the index has no such dataset, version, label or schema (also LookupError)
│   ├── EntryExistsError         the index has that version already (also ValueError)
│   ├── EntryFormError           a name, version, reference or description that cannot be used (also ValueError)
│   ├── CatalogBusyError         the index is locked, or its server does not answer; later it may
│   └── CatalogVersionError      the index was made by another version of atdata
└── AtmosphereError              the AT Protocol network could not do what was asked
    ├── AddressError             what is no AT URI, DID, handle, collection or record key (also ValueError)
    ├── IdentityError            a handle or DID that cannot be resolved or does not fit its document (also LookupError)
    ├── LoginError               a wrong password, no session, or one that was revoked (also PermissionError)
    ├── XrpcError                a server answered with an error
    │   ├── RateLimitError       the server takes no more requests for a while
    │   └── SwapError            somebody else changed the record or repository meanwhile
    ├── UnreachableError         no answer within the deadline
    ├── OversizeError            an answer or blob with more bytes than may be read
    ├── UnsafeUrlError           a URL that must not be opened (also ValueError)
    ├── RecordError              a record that breaks its lexicon (also ValueError)
    └── ProofError               a record that is not what its account signed
```

Each message says what happened, where, and what to do. The parts of "where" are attributes too:
`url`, `offset`, `key` and `field`, each `None` when it does not apply.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccessDeniedError",
    "AddressError",
    "AmbiguousLensError",
    "AtdataError",
    "AtmosphereError",
    "CatalogBusyError",
    "CatalogError",
    "CatalogVersionError",
    "CommitRecordError",
    "DatasetError",
    "DatasetExistsError",
    "DatasetNotFoundError",
    "EmptyDatasetError",
    "EntryExistsError",
    "EntryFormError",
    "EntryNotFoundError",
    "ForkError",
    "IdentityError",
    "IntegrityError",
    "LensDefinitionError",
    "LensError",
    "LensLawError",
    "LensNotFoundError",
    "LensRecordError",
    "LensValueError",
    "LoginError",
    "ManifestError",
    "OversizeError",
    "ProofError",
    "QueryError",
    "RateLimitError",
    "RecordError",
    "SampleDecodeError",
    "SampleError",
    "SampleIndexError",
    "SampleKeyError",
    "SampleTypeError",
    "SchemaError",
    "ShardError",
    "ShardFormatError",
    "SplitError",
    "SplitNotFoundError",
    "StateError",
    "StepError",
    "StoreBusyError",
    "StoreError",
    "SwapError",
    "TruncatedShardError",
    "UnreachableError",
    "UnsafeNameError",
    "UnsafeUrlError",
    "XrpcError",
]


class AtdataError(Exception):
    """The root of every error atdata raises on purpose.

    Attributes:
        message: what happened, without the place.
        url: the shard, manifest or dataset concerned.
        offset: byte offset in that file.
        key: the sample's key.
        field: the path of the field, for example `Digit.image`.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        offset: int | None = None,
        key: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.url = url
        self.offset = offset
        self.key = key
        self.field = field

    def at(
        self,
        *,
        url: str | None = None,
        offset: int | None = None,
        key: str | None = None,
    ) -> AtdataError:
        """Fill in the parts of the place that are still unknown; returns the same error."""
        if self.url is None:
            self.url = url
        if self.offset is None:
            self.offset = offset
        if self.key is None:
            self.key = key
        return self

    def __str__(self) -> str:
        place = []
        if self.url is not None:
            place.append(self.url)
        if self.offset is not None:
            place.append(f"at byte {self.offset}")
        if self.key is not None:
            place.append(f"sample {self.key!r}")
        text = self.message
        if self.field is not None and not text.startswith(self.field):
            text = f"{self.field}: {text}"
        return f"{text} [{', '.join(place)}]" if place else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders (workers); the default would lose the keyword arguments.
        return (_rebuild, (type(self), self.message, self.__dict__.copy()))


def _rebuild(cls: type[AtdataError], message: str, state: dict[str, Any]) -> AtdataError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class SampleError(AtdataError):
    """One sample does not fit its type."""


class SampleTypeError(SampleError, TypeError):
    """A value cannot be written as its field's type."""


class SampleDecodeError(SampleError, ValueError):
    """Bytes cannot be read as the sample type."""


class SchemaError(AtdataError, ValueError):
    """A sample type or a stored schema makes no sense."""


class ShardError(AtdataError):
    """Something is wrong with one shard."""


class ShardFormatError(ShardError, ValueError):
    """The tar archive is malformed, or holds what a shard may not hold."""


class TruncatedShardError(ShardFormatError):
    """The archive ends before its end-of-archive marker: part of it is missing."""


class ManifestError(ShardError, ValueError):
    """A manifest is malformed, or belongs to another shard."""


class IntegrityError(ShardError):
    """Bytes differ from the digest, size or count recorded for them.

    Attributes:
        expected: what the record says.
        got: what was found.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: str | int | None = None,
        got: str | int | None = None,
        url: str | None = None,
        offset: int | None = None,
        key: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message, url=url, offset=offset, key=key, field=field)
        self.expected = expected
        self.got = got


class StoreError(AtdataError):
    """A data store could not do what was asked."""


class DatasetNotFoundError(StoreError, FileNotFoundError):
    """There is no dataset or shard at that place."""


class DatasetExistsError(StoreError, FileExistsError):
    """A dataset is there already; nothing was changed."""


class StoreBusyError(StoreError):
    """Another writer is at work on that prefix; nothing was changed."""


class AccessDeniedError(StoreError, PermissionError):
    """The credentials do not allow what was asked, or there are none."""


class ForkError(StoreError):
    """This process is a fork of one that has used object storage; its connections do not survive that."""


class CommitRecordError(StoreError, ValueError):
    """An `atdata.json` cannot be trusted: malformed, altered, or from a newer version."""


class UnsafeNameError(StoreError, ValueError):
    """A name would lead out of the place it belongs to, or cannot be stored."""


class DatasetError(AtdataError):
    """A dataset cannot be read that way."""


class EmptyDatasetError(DatasetError, ValueError):
    """There is nothing to write: the iterable gave no sample."""


class SampleKeyError(DatasetError, KeyError):
    """No sample of the dataset has that key."""


class SampleIndexError(DatasetError, IndexError):
    """No sample of the dataset has that number."""


class SplitError(DatasetError, ValueError):
    """Which split a shard belongs to (train, validation, test) cannot be told for certain."""


class SplitNotFoundError(SplitError, KeyError):
    """The dataset has no split of that name; the message lists those it has."""


class QueryError(DatasetError, TypeError):
    """A predicate asks of a field what its type, or one of its values, does not allow."""


class StateError(DatasetError, ValueError):
    """The state of a loader cannot be used: it is of another dataset or plan, or no state at all."""


class StepError(DatasetError):
    """A user's function in a `map` or `filter` step raised; the cause is chained."""


class LensError(AtdataError):
    """One sample type cannot be seen as another that way."""


class LensDefinitionError(LensError, TypeError):
    """The declaration of a lens makes no sense."""


class LensRecordError(LensError, ValueError):
    """A stored lens is malformed, or means another lens than the one it was compared with."""


class LensValueError(LensError, ValueError):
    """The lens cannot carry a value over, in one direction or the other."""


class LensNotFoundError(LensError, LookupError):
    """No lens leads from one type to the other."""


class AmbiguousLensError(LensError, LookupError):
    """Several lenses, or several paths of them, lead from one type to the other."""


class LensLawError(LensError):
    """A lens does not keep what it was given.

    Attributes:
        report: what `atdata.check_laws` found, law by law.
    """

    def __init__(
        self,
        message: str,
        *,
        report: Any = None,
        url: str | None = None,
        offset: int | None = None,
        key: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message, url=url, offset=offset, key=key, field=field)
        self.report = report


class CatalogError(AtdataError):
    """An index of datasets could not do what was asked."""


class EntryNotFoundError(CatalogError, LookupError):
    """The index has no such dataset, version, label or schema."""


class EntryExistsError(CatalogError, ValueError):
    """The index has that version already, and versions never change; nothing was changed."""


class EntryFormError(CatalogError, ValueError):
    """A name, version, reference, tag, description or metadata that an index cannot take."""


class CatalogBusyError(CatalogError):
    """The index is locked by another process, or its server does not answer; trying again may help."""


class CatalogVersionError(CatalogError):
    """The index was made by another version of atdata, and has to be migrated, or atdata updated."""


class AtmosphereError(AtdataError):
    """The AT Protocol network could not do what was asked."""


class AddressError(AtmosphereError, ValueError):
    """A text is no AT URI, DID, handle, collection (NSID) or record key."""


class IdentityError(AtmosphereError, LookupError):
    """A handle or DID cannot be resolved, or does not fit its DID document."""


class LoginError(AtmosphereError, PermissionError):
    """The password is wrong, nobody is logged in, or the session was revoked.

    Attributes:
        error: what the server calls it, such as `AuthenticationRequired`; "" where it was not the server.
    """

    def __init__(
        self,
        message: str,
        *,
        error: str = "",
        url: str | None = None,
        offset: int | None = None,
        key: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message, url=url, offset=offset, key=key, field=field)
        self.error = error


class XrpcError(AtmosphereError):
    """A server answered with an error.

    Attributes:
        status: of the answer, such as 400.
        error: the error's name, such as `InvalidRequest`; "" where the server gave none.
        nsid: of the method that was called.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        error: str = "",
        nsid: str = "",
        url: str | None = None,
        offset: int | None = None,
        key: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message, url=url, offset=offset, key=key, field=field)
        self.status = status
        self.error = error
        self.nsid = nsid


class RateLimitError(XrpcError):
    """The server takes no more requests for a while, longer than a client waits by itself.

    Attributes:
        retry_at: when to ask again, in seconds since the epoch; `None` where the server does not say.
    """

    def __init__(self, message: str, *, retry_at: float | None = None, **place: Any) -> None:
        super().__init__(message, **place)
        self.retry_at = retry_at


class SwapError(XrpcError):
    """Somebody else changed the record, or the repository, since it was read; nothing was changed."""


class UnreachableError(AtmosphereError):
    """No answer came within the deadline."""


class OversizeError(AtmosphereError):
    """An answer or a blob has more bytes than may be read."""


class UnsafeUrlError(AtmosphereError, ValueError):
    """A URL must not be opened: its scheme, or the address that it leads to, is not for strangers to name."""


class RecordError(AtmosphereError, ValueError):
    """A record breaks its lexicon; `field` has the path."""


class ProofError(AtmosphereError):
    """A record is not what its account signed.

    Attributes:
        link: of the chain, the one that broke: `car`, `block`, `commit`, `signature`, `path`, `record` or `rollback`.
    """

    def __init__(
        self,
        message: str,
        *,
        link: str = "",
        url: str | None = None,
        offset: int | None = None,
        key: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message, url=url, offset=offset, key=key, field=field)
        self.link = link
