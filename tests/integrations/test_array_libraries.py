"""JAX and Arrow: batches as their own kinds of arrays.

JAX runs in processes of its own: its threads do not stand the forks of other tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa

import atdata

MADE = """
import json
import numpy as np
import atdata

def batch(**columns):
    rows = zip(*columns.values(), strict=True)
    return atdata.SampleBatch([atdata.DictSample(dict(zip(columns, row, strict=True))) for row in rows])

"""


def answer(program: str) -> Any:
    done = subprocess.run([sys.executable, "-c", MADE + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_batch_becomes_jax_arrays() -> None:
    found = answer("""
import jax
found = batch(
    x=[np.array([1.5, 2.5], np.float32), np.array([3.5, 4.5], np.float32)],
    mask=[np.array([True, False]), np.array([False, True])],
    number=[3, 4], flag=[True, False], name=["a", "b"], note=[None, 1],
).to_jax()
kinds = {name: str(c.dtype) if isinstance(c, jax.Array) else "list" for name, c in found.items()}
values = {name: c.tolist() if isinstance(c, jax.Array) else c for name, c in found.items()}
print(json.dumps([kinds, values]))
""")
    kinds = {"x": "float32", "mask": "bool", "number": "int32", "flag": "bool", "name": "list", "note": "list"}
    values = {
        "x": [[1.5, 2.5], [3.5, 4.5]],
        "mask": [[True, False], [False, True]],
        "number": [3, 4],
        "flag": [True, False],
        "name": ["a", "b"],
        "note": [None, 1],
    }
    assert found == [kinds, values]


def test_integers_that_jax_would_cut_are_an_error() -> None:
    fits, *refused = answer("""
import jax
found = [batch(n=[np.array([1 << 30], np.int64)]).to_jax()["n"].tolist()]
for value in (np.array([1 << 40], np.int64), np.array([3_000_000_000], np.int64), 1 << 40, 1 << 70):
    try:
        batch(n=[value]).to_jax()
        found.append("cut")
    except OverflowError as error:
        found.append(str(error))
print(json.dumps(found))
""")
    assert fits == [[1 << 30]]
    assert all(text.startswith("field 'n' has integers that do not fit into JAX's 32 bits") for text in refused)


def test_with_64_bits_nothing_is_cut() -> None:
    found = answer("""
import jax
jax.config.update("jax_enable_x64", True)
found = batch(n=[1 << 40], x=[np.array([0.1])]).to_jax()
print(json.dumps([found["n"].tolist(), str(found["x"].dtype), found["x"].tolist()]))
""")
    assert found == [[1 << 40], "float64", [[0.1]]]


def test_what_is_missing_is_named() -> None:
    for package in ("torch", "jax"):
        found = answer(f"""
import sys
sys.modules["{package}"] = None
try:
    batch(x=[1]).to_{package}()
except ImportError as error:
    print(json.dumps(str(error)))
""")
        assert "pip install" in found


def test_a_batch_becomes_an_arrow_table() -> None:
    samples = [atdata.DictSample(x=np.full((2, 2), n, np.int16), name=str(n)) for n in range(2)]
    table = atdata.SampleBatch(samples).to_arrow()
    assert table.schema.field("x").type == pa.fixed_shape_tensor(pa.int16(), [2, 2])
    assert table["name"].to_pylist() == ["0", "1"]
