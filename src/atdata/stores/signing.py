"""AWS Signature Version 4, for S3 requests without a body.

As described at https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html (requests) and
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html (presigned URLs).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

__all__ = ["Keys", "presigned", "query_string", "quoted_path", "signed_headers"]

_ALGORITHM = "AWS4-HMAC-SHA256"
_NOTHING = hashlib.sha256(b"").hexdigest()


class Keys(NamedTuple):
    """Who asks: an access key, its secret, and the token that comes with keys that expire."""

    access: str
    secret: str
    token: str | None = None

    def __repr__(self) -> str:
        return "Keys(…)"


def quoted_path(path: str) -> str:
    """The path of a URL, quoted as S3 wants it: all but letters, digits and `/-_.~`.

    Example:
        >>> quoted_path("/bucket/a b+c/ü")
        '/bucket/a%20b%2Bc/%C3%BC'
    """
    return quote(path, safe="/")


def query_string(query: Mapping[str, str]) -> str:
    """The part of a URL after `?`, quoted and sorted as it is signed."""
    return "&".join(f"{name}={value}" for name, value in sorted((quote(n, ""), quote(v, "")) for n, v in query.items()))


def signed_headers(
    keys: Keys, region: str, method: str, path: str, query: str, headers: Mapping[str, str], at: datetime
) -> dict[str, str]:
    """The headers of a request, with those that prove who sends it.

    Args:
        keys: of the sender.
        region: of the bucket.
        method: `GET` or `HEAD`.
        path: quoted, from the slash on.
        query: quoted and sorted, as `query_string` gives it.
        headers: by names in small letters; `host` must be among them.
        at: now, in UTC; servers refuse what is more than 15 minutes off.
    """
    stamp = f"{at:%Y%m%dT%H%M%SZ}"
    sent = {**headers, "x-amz-content-sha256": _NOTHING, "x-amz-date": stamp}
    if keys.token is not None:
        sent["x-amz-security-token"] = keys.token
    scope = _scope(stamp, region)
    signature = _signature(keys, region, stamp, method, path, query, sent, _NOTHING)
    sent["authorization"] = (
        f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={_names(sent)}, Signature={signature}"
    )
    return sent


def presigned(keys: Keys, region: str, origin: str, path: str, seconds: int, at: datetime) -> str:
    """A URL by which anybody can GET one object for a while.

    Args:
        keys: of the one who allows it.
        region: of the bucket.
        origin: `https://host` or `http://host:port`.
        path: quoted, from the slash on.
        seconds: how long it is good; at most a week.
        at: now, in UTC.
    """
    stamp = f"{at:%Y%m%dT%H%M%SZ}"
    headers = {"host": origin.partition("://")[2]}
    parameters = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{keys.access}/{_scope(stamp, region)}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": _names(headers),
    }
    if keys.token is not None:
        parameters["X-Amz-Security-Token"] = keys.token
    query = query_string(parameters)
    signature = _signature(keys, region, stamp, "GET", path, query, headers, "UNSIGNED-PAYLOAD")
    return f"{origin}{path}?{query}&X-Amz-Signature={signature}"


def _scope(stamp: str, region: str) -> str:
    return f"{stamp[:8]}/{region}/s3/aws4_request"


def _names(headers: Mapping[str, str]) -> str:
    return ";".join(sorted(headers))


def _signature(
    keys: Keys, region: str, stamp: str, method: str, path: str, query: str, headers: Mapping[str, str], payload: str
) -> str:
    listed = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(headers))
    request = "\n".join([method, path, query, listed, _names(headers), payload])
    text = "\n".join([_ALGORITHM, stamp, _scope(stamp, region), hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{keys.secret}".encode()
    for step in (stamp[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
