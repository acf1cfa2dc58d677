"""`S3DataStore`: shards in Amazon S3 and everything that speaks its protocol."""

from __future__ import annotations

import configparser
import http.client
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from atdata.errors import StoreError, UnsafeNameError
from atdata.stores.direct import DirectReader
from atdata.stores.objects import ObjectStore
from atdata.stores.roles import RoleKeys
from atdata.stores.signing import Keys, quoted_path
from atdata.stores.transport import AgainError, Clock, Transport

__all__ = ["S3DataStore"]

_KNOWN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT")
_AMAZON = "https://s3.amazonaws.com"
_REGION = "us-east-1"  # where nobody says
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,254}")

Credentials = Mapping[str, str] | str | os.PathLike[str] | Literal["anonymous"] | None


class S3DataStore(ObjectStore):
    """A data store in an S3 bucket (Amazon S3, Ceph, MinIO, R2, …).

    Args:
        credentials: a mapping, or the path of a `.env` file, with `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
            optionally `AWS_SESSION_TOKEN`, `AWS_REGION` and `AWS_ENDPOINT` (`http://…` or `https://…`); None for the
            usual chain (environment, profile, container or instance role); or "anonymous" for public buckets.
        bucket: the bucket's name.
        virtual_host: put the bucket into the host name (`https://bucket.host/key`) instead of the path; by default only
            for Amazon itself.
        share_credentials: let pickles of the store carry a mapping of credentials. Without it such a store cannot be
            pickled; one with a `.env` path or the usual chain can, because the other process finds them again.

    Credentials are used for this bucket at this endpoint only, and appear in no message, repr or record.

    Requests are signed, and what they send is hashed for that, except for the parts of large shards
    (`UNSIGNED-PAYLOAD`), whose digests are computed anyway. Those stand in the commit record, which is signed whole. So
    nobody on the way can change a shard without being found out, over plain http when it is read or verified, while
    over https nobody can change it at all.

    A writer that is killed leaves parts of an upload at the server, which no listing shows and which are billed. The
    next write under the same prefix removes them; for prefixes that nobody writes again, give the bucket a lifecycle
    rule with `AbortIncompleteMultipartUpload` after some days.

    Example:
        >>> store = S3DataStore({"AWS_ACCESS_KEY_ID": "…", "AWS_SECRET_ACCESS_KEY": "…"}, bucket="my-bucket")
        >>> store
        S3DataStore(bucket='my-bucket')
    """

    _in_forks = "; reading works there, but not this"

    def __init__(
        self,
        credentials: Credentials = None,
        *,
        bucket: str,
        virtual_host: bool | None = None,
        share_credentials: bool = False,
    ) -> None:
        if not _BUCKET.fullmatch(bucket):
            raise UnsafeNameError(f"{bucket!r} is not a bucket name; a path inside the bucket belongs into the prefix")
        self.bucket = bucket
        self.base = f"s3://{bucket}/"
        self._credentials = dict(credentials) if isinstance(credentials, Mapping) else credentials
        self._virtual_host = virtual_host
        self._share = share_credentials
        self._region: str | None = None
        self._hasty: Any = None
        self._bulk: Any = None
        self._direct: DirectReader | None = None
        if isinstance(self._credentials, dict):
            _check(self._credentials, "the mapping")

    def __repr__(self) -> str:
        return f"S3DataStore(bucket={self.bucket!r})"

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self._credentials, dict) and not self._share:
            raise StoreError(
                "a store with a mapping of credentials is not pickled, so that they do not leak into files and other "
                "processes. Give a .env path, use the environment, or pass share_credentials=True",
                url=self.base,
            )
        return {**super().__getstate__(), "_hasty": None, "_bulk": None, "_direct": None}

    @property
    def endpoint(self) -> str | None:
        """The web address of the service; None for Amazon's own."""
        found = _checked_endpoint(self._config())
        return None if found is None else found.rstrip("/")

    @property
    def region(self) -> str | None:
        """The bucket's region, as far as the credentials or the environment say it."""
        return self._config().get("AWS_REGION")

    def read_url(self, url: str) -> str:
        """A presigned https URL, good for a day, that anything can read without credentials."""
        import obstore

        key = self.key(url)
        if self._credentials == "anonymous":
            place = self._place()
            return place.origin + quoted_path(f"{place.folder}/{key}")
        reader = self.reader
        if isinstance(reader, DirectReader):
            return reader.presigned(key)
        with self.errors(url):
            return str(obstore.sign(self.client, "GET", key, timedelta(days=1)))

    def drop_uploads(self, folder: str, mine: Callable[[str], object]) -> None:
        """Abort what a writer that is gone was uploading under `folder`; see `ObjectStore.drop_uploads`."""
        reader = self._direct_reader()
        for key, upload in reader.uploads(folder):
            if mine(key):
                reader.drop_upload(key, upload)

    def _config(self) -> dict[str, str]:
        given = self._credentials
        if given == "anonymous":
            return {k: os.environ[k] for k in ("AWS_REGION", "AWS_ENDPOINT") if k in os.environ}
        if isinstance(given, dict):
            return given
        if given is not None:
            return _check(_dotenv(Path(given)), str(given))
        return _from_chain()

    def _place(self) -> _Place:
        """Where the bucket is, and who asks; whatever else the environment may say."""
        config = self._config()
        endpoint = _checked_endpoint(config)
        region = config.get("AWS_REGION") or self._region or _region_of(self.bucket, endpoint or _AMAZON)
        self._region = region
        virtual = self._virtual_host if self._virtual_host is not None else endpoint is None
        scheme, _, host = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/").partition("://")
        if virtual and not host.startswith(f"{self.bucket}."):
            host = f"{self.bucket}.{host}"
        access, secret = config.get("AWS_ACCESS_KEY_ID"), config.get("AWS_SECRET_ACCESS_KEY")
        keys = Keys(access, secret, config.get("AWS_SESSION_TOKEN") or None) if access and secret else None
        return _Place(f"{scheme}://{host}", "" if virtual else f"/{self.bucket}", region, keys)

    def _connect(self) -> Any:
        return self._connected(RETRIES)

    @property
    def _hasty_client(self) -> Any:
        self.client  # noqa: B018  (refused in forked processes)
        if self._hasty is None:
            self._hasty = self._connected({**RETRIES, "max_retries": 0})
        return self._hasty

    @property
    def shard_client(self) -> Any:
        """The obstore store that sends shards: their bytes are not hashed once more to be signed."""
        self.client  # noqa: B018  (refused in forked processes)
        if self._bulk is None:
            self._bulk = self._connected(RETRIES, unsigned_payload=True)
        return self._bulk

    def _connected(self, retries: Any, **settings: Any) -> Any:
        from obstore.store import S3Store

        place = self._place()
        options: dict[str, Any] = {"endpoint": place.origin, "region": place.region, **settings}
        options["virtual_hosted_style_request"] = not place.folder
        if self._credentials == "anonymous":
            options["skip_signature"] = True
        elif place.keys is not None:
            # Given as settings, they would be mixed with those of the environment: its session token with these keys.
            options["credential_provider"] = _given(place.keys)
        with self.errors(self.base):
            return S3Store(self.bucket, **options, client_options=client_options(place.origin), retry_config=retries)

    def _direct_reader(self) -> DirectReader:
        found = self._direct
        if found is None or found.foreign:
            place = self._place()
            keys: Callable[[], Keys] | None = None
            if place.keys is not None:
                keys = partial(_same, place.keys)
            elif self._credentials != "anonymous":
                keys = RoleKeys(place.region)
            found = self._direct = DirectReader(self.base, place.origin + place.folder, place.region, keys, RETRIES)
        return found


class _Place(NamedTuple):
    """Where a bucket is: web address and path, region; and the keys for it, when they are known."""

    origin: str
    folder: str
    region: str
    keys: Keys | None


def _same(keys: Keys) -> Keys:
    return keys


def _given(keys: Keys) -> Callable[[], dict[str, str | None]]:
    told = {"access_key_id": keys.access, "secret_access_key": keys.secret, "token": keys.token, "expires_at": None}
    return lambda: told


# Of what fails by 429, 5xx and broken connections; with growing pauses, of which a part is chance, and bounded.
RETRIES: Any = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}


_TIMES = {"timeout": "120s", "read_timeout": "20s", "connect_timeout": "5s"}


def client_options(endpoint: str | None) -> Any:
    """Time-outs for bounded requests, and plain http where the endpoint says so."""
    options: dict[str, Any] = {**_TIMES, "pool_max_idle_per_host": "64"}
    if endpoint is not None and endpoint.lower().startswith("http://"):
        options["allow_http"] = True
    return options


def _check(config: dict[str, str], where: str) -> dict[str, str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if not config.get(name):
            raise StoreError(f"{where} has no {name}")
    _checked_endpoint(config)
    return config


def _checked_endpoint(config: dict[str, str]) -> str | None:
    endpoint = config.get("AWS_ENDPOINT")
    if endpoint and not re.match(r"https?://[^/\s@]+/?$", endpoint, re.IGNORECASE):
        raise StoreError("AWS_ENDPOINT must be like https://host or http://host:port, without a path or a password")
    return endpoint or None


def _dotenv(path: Path) -> dict[str, str]:
    try:
        text = path.expanduser().read_text()
    except OSError as error:
        raise StoreError(f"the credentials file cannot be read: {error.strerror}", url=str(path)) from None
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(?:export\s+)?([A-Z_]+)\s*=\s*(.*?)\s*", line)
        if match and match[1] in _KNOWN:
            value = match[2]
            found[match[1]] = value[1:-1] if value[:1] in "'\"" and value[-1:] == value[:1] and value else value
    return found


def _from_chain() -> dict[str, str]:
    """Environment first, then the static keys of a profile; container and instance roles are obstore's own."""
    environment = os.environ
    config = {name: environment[name] for name in _KNOWN if environment.get(name)}
    for name, other in (("AWS_ENDPOINT", "AWS_ENDPOINT_URL"), ("AWS_REGION", "AWS_DEFAULT_REGION")):
        if name not in config and environment.get(other):
            config[name] = environment[other]
    if "AWS_ACCESS_KEY_ID" in config:
        return config
    profile = environment.get("AWS_PROFILE", "default")
    for variable, default, section in (
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", profile),
        ("AWS_CONFIG_FILE", "~/.aws/config", profile if profile == "default" else f"profile {profile}"),
    ):
        parser = configparser.RawConfigParser()
        parser.read(Path(environment.get(variable, default)).expanduser())
        if parser.has_section(section):
            for name, option in zip(_KNOWN, _OPTIONS, strict=True):
                if name not in config and parser.has_option(section, option):
                    config[name] = parser.get(section, option)
    if "AWS_ACCESS_KEY_ID" not in config and "AWS_PROFILE" in environment:
        raise StoreError(
            f"the profile {profile!r} has no static keys; put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the "
            "environment (for example with `aws configure export-credentials --format env`)"
        )
    return config


_OPTIONS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region", "endpoint_url")


def _region_of(bucket: str, endpoint: str) -> str:
    """The region of a bucket, which Amazon and some others say even to strangers."""
    transport = Transport(endpoint)
    try:
        with transport.ask("HEAD", quoted_path(f"/{bucket}"), {}, Clock(5.0)) as answer:
            return str(answer.headers.get("x-amz-bucket-region") or _REGION)
    except (OSError, http.client.HTTPException, AgainError):
        return _REGION
    finally:
        transport.close()
