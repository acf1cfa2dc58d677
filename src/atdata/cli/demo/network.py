"""The code of the demo's second half that a user would type: `atdata demo --network` shows and runs it."""

# ruff: noqa: RET504 - what is shown is a name that gets a value, not a return

from __future__ import annotations

from typing import Any

import atdata
from atdata.atmosphere import Atmosphere

__all__ = ["find", "log_in", "publish", "stream", "verify"]


def log_in(handle: str, password: str) -> Any:
    """An account by its handle and an app password."""
    client = Atmosphere.login(handle, password)
    return client


def publish(client: Any, digits: Any) -> Any:
    """Shards into the account, and a record that says what they are."""
    index = atdata.AtmosphereIndex(client, store=atdata.PDSBlobStore(client))
    entry = index.write_samples(
        digits, name="digits", description="Handwritten digits", tags=["images"], license="CC-BY-4.0"
    )
    return entry


def find(handle: str) -> Any:
    """What an account has published; this needs no account."""
    found = list(atdata.AtmosphereIndex(repo=handle).search("handwritten"))
    return found


def verify(handle: str) -> Any:
    """From the account's key down to the last byte."""
    report = atdata.verify(f"@{handle}/digits", deep=True)
    return report


def stream(handle: str) -> Any:
    """Batches, as from any other dataset."""
    digits = atdata.load_dataset(f"@{handle}/digits")
    labels = [label for batch in digits.shuffled(batch_size=64, seed=0) for label in batch.label]
    return labels
