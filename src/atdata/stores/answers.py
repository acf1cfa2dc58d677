"""What servers of object storage answer: bytes, or why there are none."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from atdata.errors import (
    AccessDeniedError,
    DatasetExistsError,
    DatasetNotFoundError,
    IntegrityError,
    StoreError,
)

__all__ = ["DENIALS", "Answer", "CutError", "Reader", "denied", "explained", "translated"]

# Codes of errors that are about who asks; some servers give them with a status that is not.
DENIALS = re.compile(
    "<Code>(AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|RequestTimeTooSkewed|ExpiredToken|InvalidToken|"
    "AuthenticationFailed|AuthorizationFailure|NoAuthenticationInformation|InvalidAuthenticationInfo)</Code>"
)


class Answer(NamedTuple):
    """What a server gave of an object.

    Attributes:
        data: the bytes.
        size: of the whole object.
        etag: of this version of the object.
    """

    data: memoryview
    size: int
    etag: str | None


class Reader(Protocol):
    """Reads the objects of one store; raises what `ObjectStore.errors` makes of obstore's errors."""

    def head(self, key: str) -> Answer:
        """Size and version of an object, without any of its bytes."""

    def fetch(self, key: str, start: int | None = None, stop: int | None = None, etag: str | None = None) -> Answer:
        """An object, or its bytes from `start` up to `stop`; of that version only, when one is given."""

    def keys(self, folder: str) -> Sequence[str]:
        """The keys of all objects under `folder`."""


@contextlib.contextmanager
def translated(url: str, base: str) -> Iterator[None]:
    """obstore's errors as ours, with what to do and without secrets.

    Args:
        url: of the object concerned.
        base: the URL of its store, which is the bucket.
    """
    from obstore import exceptions

    try:
        yield
    except (FileNotFoundError, exceptions.NotFoundError) as error:
        text = str(error)
        if "NoSuchBucket" in text or "ContainerNotFound" in text:
            raise StoreError(f"the bucket of {base} does not exist; make it first", url=url) from None
        raise DatasetNotFoundError("there is no such object", url=url) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
        if isinstance(error, exceptions.AlreadyExistsError):
            raise DatasetExistsError("the object is there already", url=url) from None
        raise IntegrityError("the object was replaced while it was read; read it again", url=url) from None
    except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise AccessDeniedError(denied(str(error)), url=url) from None
    except (exceptions.BaseError, OSError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        text = str(error)
        if DENIALS.search(text):
            raise AccessDeniedError(denied(text), url=url) from None  # which obstore does not tell when it lists
        kind = CutError if "body error" in text else StoreError
        raise kind(explained(text), url=url) from None


class CutError(StoreError):
    """The server answers, but its answers do not arrive whole."""


def denied(text: str) -> str:
    """Why a server denies access, from its answer."""
    if "SignatureDoesNotMatch" in text:
        return "the server refused the signature: the secret key is wrong"
    if "InvalidAccessKeyId" in text:
        return "the server does not know the access key"
    if "RequestTimeTooSkewed" in text:
        return "this machine's clock is too far off for signed requests; set it right"
    if "ExpiredToken" in text:
        return "the session token has expired; get new credentials"
    if "InvalidToken" in text:
        return "the session token is not one that the server knows; it belongs to its access key, and to one service"
    if re.search("AuthenticationFailed|AuthorizationFailure", text):
        return "the server refused the account key or token: it is wrong, has expired, or is of another account"
    return "access denied: the credentials do not allow this (or none were given)"


def explained(text: str) -> str:
    """What an error means and what to do, without secrets."""
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return "the bucket does not exist; make it first"
    if re.search(r"PermanentRedirect|AuthorizationHeaderMalformed|\b301 Moved|redirect without LOCATION", text):
        return "the bucket is in another region; set AWS_REGION to it"
    if "InvalidBucketName" in text:
        return "the bucket name is not valid"
    if "kind: Timeout" in text:
        return f"the server did not answer in time, also when asked again ({_short(text)})"
    if "kind: Connect" in text:
        return f"the server cannot be reached ({_short(text)})"
    return f"the request failed: {_short(text)}"


def _short(text: str) -> str:
    """The first line of an error, without the request that may hold a signature."""
    line = text.split("\n", 1)[0].split("?", 1)[0]
    return line[:300]
