"""The AT Protocol network: identities, records, blobs, proofs.

`Atmosphere` is a client of it; imported when it is first used, so that `import atdata.atmosphere` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atdata.atmosphere.client import Atmosphere, Record, Write, Written
    from atdata.atmosphere.identity import Identity
    from atdata.atmosphere.syntax import AtUri

_HOMES = {
    "AtUri": "atdata.atmosphere.syntax",
    "Atmosphere": "atdata.atmosphere.client",
    "Identity": "atdata.atmosphere.identity",
    "Record": "atdata.atmosphere.client",
    "Write": "atdata.atmosphere.client",
    "Written": "atdata.atmosphere.client",
}

__all__ = ["AtUri", "Atmosphere", "Identity", "Record", "Write", "Written"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'atdata.atmosphere' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
