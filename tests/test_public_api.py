"""What `import atdata` gives: the names, what they cost, what is said of each, and that the examples are true."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import atdata

NAMES = {
    "AbstractDataStore",
    "AtdataError",
    "AtmosphereIndex",
    "DataSource",
    "Dataset",
    "DatasetDict",
    "DictSample",
    "Image",
    "Lens",
    "LensNetwork",
    "LocalDiskStore",
    "LocalIndex",
    "PDSBlobStore",
    "Packable",
    "S3DataStore",
    "SampleBatch",
    "Schema",
    "Shape",
    "check_laws",
    "fields",
    "generate_cid",
    "lens",
    "load_dataset",
    "mix",
    "open_store",
    "pack",
    "packable",
    "unpack",
    "verify",
    "verify_cid",
}

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(atdata.__path__, "atdata.")
    if not info.name.endswith("__main__")  # importing it runs the command
    and info.name != "atdata.integrations.jax"  # JAX makes every later fork of the process a warning
)


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_these_are_the_public_names() -> None:
    assert set(atdata.__all__) == NAMES
    assert len(atdata.__all__) == len(NAMES)
    assert list(atdata.__all__) == sorted(atdata.__all__)
    assert set(dir(atdata)) >= NAMES
    assert atdata.__version__.count(".") == 2


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_public_name_can_be_imported_by_itself(name: str) -> None:
    assert getattr(atdata, name) is getattr(atdata, name)
    assert run(f"from atdata import {name}; print({name}.__name__)").strip() == name


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    tree = ast.parse(Path(atdata.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(seen) == NAMES
    for name, module in seen.items():
        assert getattr(importlib.import_module(str(module)), name) is getattr(atdata, name)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'atdata' has no attribute 'Dateset'"):
        atdata.Dateset  # noqa: B018


def test_importing_atdata_imports_nothing_heavy() -> None:
    heavy = [
        "numpy",
        "pyarrow",
        "msgspec",
        "cbrrr",
        "typer",
        "rich",
        "PIL",
        "pandas",
        "webdataset",
        "obstore",
        "sqlalchemy",
    ]
    loaded = run("import sys; import atdata; print(*sorted(sys.modules))").split()
    assert not set(heavy) & set(loaded)
    bare = run("import sys; print(*sorted(sys.modules))").split()
    new = {name.partition(".")[0] for name in set(loaded) - set(bare)}
    assert new <= {*sys.stdlib_module_names, "atdata"}


def test_a_star_import_gives_the_public_names_and_no_others() -> None:
    before = run("print(*sorted(dir()))").split()
    after = run("from atdata import *; print(*sorted(dir()))").split()
    assert set(after) - set(before) == NAMES


def public_members() -> Iterator[tuple[str, Any]]:
    """Every public class and function of every module, and the public methods of the classes."""
    for name in MODULES:
        module = importlib.import_module(name)
        yield name, module
        for member in getattr(module, "__all__", []):
            value = getattr(module, member)
            if getattr(value, "__module__", None) != name or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            yield f"{name}.{member}", value
            if inspect.isclass(value):
                for attribute, method in vars(value).items():
                    plain = getattr(method, "__func__", getattr(method, "fget", method))
                    if not attribute.startswith("_") and inspect.isfunction(plain) and plain.__module__ == name:
                        yield f"{name}.{member}.{attribute}", plain


def test_everything_public_has_a_docstring() -> None:
    found = dict(public_members())
    assert len(found) > 150
    for name in NAMES:
        found[name] = getattr(atdata, name)
    without = [name for name, value in found.items() if not inspect.getdoc(value)]
    assert without == []
    generated = [
        name for name, value in found.items() if (inspect.getdoc(value) or "").startswith(f"{name.split('.')[-1]}(")
    ]
    assert generated == []  # what `dataclass` writes for a class that has none


def test_everything_in_all_is_there() -> None:
    for name in MODULES:
        module = importlib.import_module(name)
        for member in getattr(module, "__all__", []):
            assert hasattr(module, member), f"{name}.{member}"


def test_public_signatures_are_annotated_with_names_that_exist() -> None:
    for name in NAMES:
        value = getattr(atdata, name)
        functions = [value] if inspect.isfunction(value) else [m for m in vars(value).values() if inspect.isfunction(m)]
        for function in functions:
            if function.__module__.startswith("atdata"):
                space = vars(sys.modules[function.__module__])
                guarded = dict.fromkeys(
                    ("pa", "pd", "TensorBatch", "TorchBatches"), Any
                )  # imported for type checkers only
                try:
                    typing.get_type_hints(function, {**space}, guarded)
                except AttributeError:
                    continue  # `pa.Table` of a stand-in


FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", ["atdata", *MODULES])
def test_docstring_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    said: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    count = sum(len(t.examples) for name in MODULES for t in finder.find(importlib.import_module(name)))
    assert count > 20
