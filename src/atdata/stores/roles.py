"""The keys of the role that a container or machine at Amazon has, which expire and are fetched again.

obstore fetches them by itself; this is for processes that were forked and cannot use it, and looks in the same places
in the same order: a web identity (EKS, IRSA), a task's role (ECS), a pod's identity (EKS), the machine's role (EC2).
"""

from __future__ import annotations

import json
import os
import re
import ssl
import threading
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from atdata.errors import ForkError
from atdata.stores.signing import Keys

__all__ = ["RoleKeys"]

_EARLY = timedelta(minutes=5)  # before they expire
_PATIENCE = 5.0  # seconds

# The metadata of a machine or container is never behind a proxy.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RoleKeys:
    """Keys that are good now, fetched when they are needed.

    Args:
        region: where tokens are exchanged for keys.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._lock = threading.Lock()
        self._keys: Keys | None = None
        self._until = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> Keys:
        """The keys.

        Raises:
            ForkError: they cannot be had.
        """
        with self._lock:
            if self._keys is None or datetime.now(UTC) > self._until - _EARLY:
                try:
                    self._keys, self._until = self._fetched()
                except (OSError, ValueError, KeyError) as error:
                    raise ForkError(
                        "there are no keys in the settings, and those of this machine's role cannot be fetched in a "
                        f"forked process ({type(error).__name__}: {error}). Set AWS_ACCESS_KEY_ID and "
                        "AWS_SECRET_ACCESS_KEY, or start workers with 'forkserver' or 'spawn' "
                        "(DataLoader(..., multiprocessing_context='forkserver'))"
                    ) from None
            return self._keys

    def _fetched(self) -> tuple[Keys, datetime]:
        names = os.environ
        if "AWS_WEB_IDENTITY_TOKEN_FILE" in names and "AWS_ROLE_ARN" in names:
            return self._by_web_identity(Path(names["AWS_WEB_IDENTITY_TOKEN_FILE"]), names["AWS_ROLE_ARN"])
        if "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" in names:
            return _told(_asked("http://169.254.170.2" + names["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]))
        if "AWS_CONTAINER_CREDENTIALS_FULL_URI" in names and "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" in names:
            token = Path(names["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read_text().strip()
            return _told(_asked(names["AWS_CONTAINER_CREDENTIALS_FULL_URI"], {"Authorization": token}))
        machine = names.get("AWS_METADATA_ENDPOINT", "http://169.254.169.254").rstrip("/")
        pass_for = {"X-aws-ec2-metadata-token-ttl-seconds": "600"}
        head = {"X-aws-ec2-metadata-token": _asked(f"{machine}/latest/api/token", pass_for, method="PUT")}
        place = f"{machine}/latest/meta-data/iam/security-credentials/"
        return _told(_asked(place + _asked(place, head).strip(), head))

    def _by_web_identity(self, file: Path, role: str) -> tuple[Keys, datetime]:
        """https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_STS", f"https://sts.{self._region}.amazonaws.com")
        if not endpoint.startswith("https://"):
            raise ValueError("AWS_ENDPOINT_URL_STS must begin with https://")
        query = {
            "Action": "AssumeRoleWithWebIdentity",
            "DurationSeconds": "3600",
            "RoleArn": role,
            "RoleSessionName": os.environ.get("AWS_ROLE_SESSION_NAME", "WebIdentitySession"),
            "Version": "2011-06-15",
            "WebIdentityToken": file.read_text(),
        }
        body = urllib.parse.urlencode(query).encode()
        # Without one, Python 3.12 goes on trusting whom the first request of the process trusted.
        trusted = ssl.create_default_context()
        with urllib.request.urlopen(endpoint, body, timeout=4 * _PATIENCE, context=trusted) as answer:  # noqa: S310  (https)
            text = answer.read(1 << 20).decode()
        names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        found = dict(re.findall(f"<({'|'.join(names)})>([^<]+)<", text))
        access, secret, token, expires = (found[name] for name in names)
        return Keys(access, secret, token or None), datetime.fromisoformat(expires)


def _asked(url: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("the address of the keys is not a web address")
    request = urllib.request.Request(url, headers=headers or {}, method=method)  # noqa: S310  (see above)
    with _direct.open(request, timeout=_PATIENCE) as answer:
        text: bytes = answer.read(1 << 20)
    return text.decode()


def _told(text: str) -> tuple[Keys, datetime]:
    """Keys from the JSON that containers and machines get."""
    told: dict[str, Any] = json.loads(text)
    keys = Keys(told["AccessKeyId"], told["SecretAccessKey"], told["Token"] or None)
    return keys, datetime.fromisoformat(told["Expiration"])
