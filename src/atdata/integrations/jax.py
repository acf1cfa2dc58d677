"""JAX: batches as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    raise ImportError("this needs JAX: pip install jax") from None

__all__ = ["arrays"]


def arrays(columns: Mapping[str, Any]) -> dict[str, Any]:
    """A batch's columns as `jax.Array`s; as they are, where JAX has no such type (strings, ragged arrays, None).

    Memory is shared where JAX can take it over (on a CPU, from 64-byte aligned memory). Without
    `jax.config.update("jax_enable_x64", True)` JAX has no 64-bit types: floats become float32, as everywhere in JAX.

    Raises:
        OverflowError: integers do not fit into JAX's 32 bits.
    """
    return {name: _array(name, column) for name, column in columns.items()}


def _array(name: str, column: Any) -> Any:
    if isinstance(column, list):
        kinds = set(map(type, column))
        if len(kinds) != 1 or not kinds <= {bool, int, float}:
            return column
        column = np.array(column)
        if column.dtype == object:  # integers beyond 64 bits
            raise _too_large(name)
    if not isinstance(column, np.ndarray):
        return column
    if not column.dtype.isnative:
        column = column.astype(column.dtype.newbyteorder("="))
    if column.dtype.kind not in "biufc":
        return column
    wanted = jax.dtypes.canonicalize_dtype(column.dtype)
    if wanted != column.dtype:
        if column.dtype.kind in "iu" and not _fits(column, wanted):
            raise _too_large(name)
        return jnp.asarray(column.astype(wanted))
    return jax.dlpack.from_dlpack(column) if column.flags.writeable and column.dtype != bool else jnp.asarray(column)


def _fits(column: NDArray[Any], wanted: np.dtype[Any]) -> bool:
    limits = np.iinfo(wanted)
    return not column.size or (int(column.min()) >= limits.min and int(column.max()) <= limits.max)


def _too_large(name: str) -> OverflowError:
    return OverflowError(
        f"field {name!r} has integers that do not fit into JAX's 32 bits: call "
        'jax.config.update("jax_enable_x64", True) before anything else of JAX, or leave the field out'
    )
