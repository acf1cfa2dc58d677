"""A keyring of the tests' own, as the package `keyring` lets anyone write one: a file, so that processes share it.

`OWN_KEYRING` names the file, and a file beside it with the suffix `.mood` says what goes wrong.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.compat import properties
from keyring.errors import PasswordDeleteError


class OwnKeyring(KeyringBackend):
    @properties.classproperty
    def priority(self) -> float:
        if "OWN_KEYRING" not in os.environ:
            raise RuntimeError("not here")  # or it would be taken for one of the system's, wherever it is imported
        return 5

    @property
    def file(self) -> Path:
        mood = Path(os.environ["OWN_KEYRING"]).with_suffix(".mood")
        if mood.exists():
            if mood.read_text() == "silent":
                time.sleep(60)
            raise RuntimeError("it is locked, and here is a secret: hunter2")
        return Path(os.environ["OWN_KEYRING"])

    def _all(self) -> dict[str, str]:
        file = self.file
        return json.loads(file.read_text()) if file.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self._all().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self.file.write_text(json.dumps({**self._all(), f"{service} {username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        found = self._all()
        if found.pop(f"{service} {username}", None) is None:
            raise PasswordDeleteError("there is none")
        self.file.write_text(json.dumps(found))
