"""Buckets as anybody may read them: by what a record says of them, and by nothing else."""

from __future__ import annotations

import re

from atdata.atmosphere.guard import check_url
from atdata.errors import StoreError, UnsafeUrlError
from atdata.stores.answers import Reader
from atdata.stores.base import Transaction
from atdata.stores.direct import DirectReader
from atdata.stores.s3 import RETRIES, S3DataStore

__all__ = ["PublicBucket"]

# In host names, as Amazon has them.
_HOST_PART = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61}[a-z0-9])", re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{1,50}", re.ASCII)


class PublicBucket(S3DataStore):
    """An S3 bucket that a stranger names, read without credentials; the environment has no part in where it is.

    Args:
        bucket: its name.
        endpoint: `https://host` of the service; None for Amazon's.
        region: the bucket's; None where it is not known.
        allow_private: whether the endpoint may be plain http, loopback or a private address.

    Raises:
        UnsafeUrlError: the endpoint or the region is not one that may be opened.

    Example:
        >>> PublicBucket("open-data", endpoint="https://s3.example.org")
        PublicBucket('open-data', endpoint='https://s3.example.org')
    """

    def __init__(
        self, bucket: str, *, endpoint: str | None = None, region: str | None = None, allow_private: bool = False
    ) -> None:
        super().__init__("anonymous", bucket=bucket)
        if endpoint is not None:
            check_url(endpoint, allow_private=allow_private)
        elif not _HOST_PART.fullmatch(bucket):
            raise UnsafeUrlError(f"{bucket!r} is no bucket that Amazon could have")
        if region is not None and not _REGION.fullmatch(region):
            raise UnsafeUrlError(f"{region!r:.80} is no region")
        # Without an endpoint of its own, a bucket is Amazon's, who says in which region.
        at = {"AWS_ENDPOINT": endpoint, "AWS_REGION": region or ("us-east-1" if endpoint is not None else None)}
        self._at = {name: value for name, value in at.items() if value is not None}
        self.allow_private = allow_private

    def __repr__(self) -> str:
        at = "" if self.endpoint is None else f", endpoint={self.endpoint!r}"
        return f"PublicBucket({self.bucket!r}{at})"

    def _config(self) -> dict[str, str]:
        return self._at

    @property
    def reader(self) -> Reader:
        """What reads: always by connections that are checked."""
        return self._direct_reader()

    def _direct_reader(self) -> DirectReader:
        found = self._direct
        if found is None or found.foreign:
            place = self._place()
            root, public = place.origin + place.folder, not self.allow_private
            found = self._direct = DirectReader(self.base, root, place.region, None, RETRIES, public=public)
        return found

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Refused: strangers only read here."""
        raise StoreError("the bucket is read without credentials, and not written", url=self.base + prefix)

    def delete(self, prefix: str) -> None:
        """Refused: strangers only read here."""
        raise StoreError("the bucket is read without credentials, and not written", url=self.base + prefix)
