"""Azure Blob Storage: the machinery of `ObjectStore`, and the signatures of its URLs.

obstore signs the quoted name of a blob, where Azure signs the name itself: what it gives is refused by the server for
every name that has to be quoted. So URLs are signed here where the account's key is known.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from atdata.errors import StoreError
from atdata.stores.objects import ObjectStore
from atdata.stores.s3 import RETRIES, client_options

__all__ = ["AzureDataStore", "signed_query"]

_VERSION = "2022-11-02"  # of the service
_DAY = timedelta(days=1)
# The names that obstore knows a setting by, in its options and in the environment.
_ENDPOINT = ("endpoint", "azure_storage_endpoint", "azure_endpoint")
_ACCOUNT = ("account_name", "azure_storage_account_name")
_KEY = (
    "account_key", "access_key", "master_key", "azure_storage_account_key", "azure_storage_access_key",
    "azure_storage_master_key",
)  # fmt: skip


class AzureDataStore(ObjectStore):
    """A data store in an Azure Blob Storage container.

    Args:
        container: the container's name.
        options: settings of obstore's `AzureStore`, such as `account_name` and `account_key`; by default from the
            environment (`AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_ENDPOINT`, …).
    """

    def __init__(self, container: str, **options: Any) -> None:
        self.container = container
        self.base = f"az://{container}/"
        self._options = options

    def __repr__(self) -> str:
        return f"AzureDataStore({self.container!r})"

    def read_url(self, url: str) -> str:
        """A signed https URL, good for a day.

        Raises:
            StoreError: the account's key is not known, and the name has to be quoted in a URL.
        """
        blob, account, key = self.key(url), self._setting(_ACCOUNT), self._setting(_KEY)
        if account is None or key is None:
            return self._signed_by_token(url, blob)
        endpoint = self._setting(_ENDPOINT) or f"https://{account}.blob.core.windows.net"
        query = signed_query(account, key, self.container, blob, datetime.now(UTC))
        return f"{endpoint.rstrip('/')}/{self.container}/{quote(blob)}?{query}"

    def _signed_by_token(self, url: str, blob: str) -> str:
        """What obstore signs, with a key that Azure gives to those who show it a token."""
        import obstore

        if quote(blob) != blob:
            raise StoreError(
                "a name with spaces or special characters can only be signed with the account's key: give the store "
                "account_name and account_key, or use a plain prefix",
                url=url,
            )
        with self.errors(url):
            return str(obstore.sign(self.client, "GET", blob, _DAY))

    def _setting(self, names: tuple[str, ...]) -> str | None:
        given = {name.lower(): value for name, value in self._options.items()}
        found = [given.get(name) for name in names] + [os.environ.get(name.upper()) for name in names]
        return next((str(value) for value in found if value), None)

    def _connect(self) -> Any:
        from obstore.store import AzureStore

        with self.errors(self.base):
            return AzureStore(
                self.container,
                client_options=client_options(self._setting(_ENDPOINT)),
                retry_config=RETRIES,
                **self._options,
            )


def signed_query(account: str, key: str, container: str, blob: str, now: datetime) -> str:
    """The part of a URL after `?` that lets whoever has it read one blob for a day.

    As described at https://learn.microsoft.com/rest/api/storageservices/create-service-sas.

    Args:
        account: the account's name.
        key: the account's key, in base64.
        container: the container's name.
        blob: the blob's name, as it is.
        now: in UTC.

    Raises:
        StoreError: the key is not base64.
    """
    end = f"{now + _DAY:%Y-%m-%dT%H:%M:%SZ}"
    resource = f"/blob/{account}/{container}/{blob}"
    # Permission, start, end, resource, identifier, address, protocol, version, kind; and eight that are not given.
    text = "\n".join(["r", "", end, resource, "", "", "", _VERSION, "b", "", "", "", "", "", "", ""])
    try:
        secret = base64.b64decode(key, validate=True)
    except binascii.Error:
        raise StoreError("the account key is not base64: copy it whole, as the portal shows it") from None
    signature = base64.b64encode(hmac.digest(secret, text.encode(), "sha256")).decode()
    return urlencode({"sp": "r", "se": end, "sv": _VERSION, "sr": "b", "sig": signature})
