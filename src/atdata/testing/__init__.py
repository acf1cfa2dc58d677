"""What tests of atdata, and of code that uses it, are made of.

`samples` gives hypothesis strategies for a sample type. `DataStoreSuite` is what every data store has to pass,
`ReadOnlyStoreSuite` the reading half of it, and `FullStoreSuite` what atdata's own stores promise beyond; they need
pytest and the real `webdataset` package. `IndexSuite` is what every index of datasets has to pass, and
`LocalIndexSuite` what `LocalIndex` promises over any database; they need pytest. `FaultyStore` is a store on a bad day,
`FaultProxy` a bad network before any server that speaks HTTP. `LocalNetwork` is an AT Protocol network on this machine.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from atdata.testing.faults import FaultyStore
from atdata.testing.network import LocalNetwork
from atdata.testing.proxy import FaultProxy
from atdata.testing.strategies import samples

if TYPE_CHECKING:
    from atdata.testing.full import FullStoreSuite
    from atdata.testing.indexes import IndexSuite
    from atdata.testing.local_indexes import LocalIndexSuite
    from atdata.testing.reading import ReadOnlyStoreSuite
    from atdata.testing.stores import DataStoreSuite

__all__ = [
    "DataStoreSuite",
    "FaultProxy",
    "FaultyStore",
    "FullStoreSuite",
    "IndexSuite",
    "LocalIndexSuite",
    "LocalNetwork",
    "ReadOnlyStoreSuite",
    "samples",
]

_SUITES = {
    "ReadOnlyStoreSuite": "reading",
    "DataStoreSuite": "stores",
    "FullStoreSuite": "full",
    "IndexSuite": "indexes",
    "LocalIndexSuite": "local_indexes",
}


def __getattr__(name: str) -> Any:
    if name not in _SUITES:
        raise AttributeError(f"module 'atdata.testing' has no attribute {name!r}")
    import pytest  # only the suites need it

    modules = [f"atdata.testing.{module}" for module in (*_SUITES.values(), "stored_lenses")]
    pytest.register_assert_rewrite(*(module for module in modules if module not in sys.modules))
    return getattr(importlib.import_module(f"atdata.testing.{_SUITES[name]}"), name)
