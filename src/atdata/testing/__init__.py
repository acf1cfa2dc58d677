"""What tests of atdata, and of code that uses it, are made of.

`samples` gives hypothesis strategies for a sample type. `FaultProxy` is a bad network before any server that speaks
HTTP. `DataStoreSuite` and `FullStoreSuite` are what every data store has to pass; they need pytest and the real
`webdataset` package.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from atdata.testing.proxy import FaultProxy
from atdata.testing.strategies import samples

if TYPE_CHECKING:
    from atdata.testing.stores import DataStoreSuite, FullStoreSuite

__all__ = ["DataStoreSuite", "FaultProxy", "FullStoreSuite", "samples"]


def __getattr__(name: str) -> Any:
    if name not in ("DataStoreSuite", "FullStoreSuite"):
        raise AttributeError(f"module 'atdata.testing' has no attribute {name!r}")
    import pytest  # only the suites need it

    if "atdata.testing.stores" not in sys.modules:
        pytest.register_assert_rewrite("atdata.testing.stores")
    from atdata.testing import stores

    return getattr(stores, name)
