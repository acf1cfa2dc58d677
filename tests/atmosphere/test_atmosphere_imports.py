"""What `atdata.atmosphere` gives, what it costs to import, and what it says where its packages are not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from atdata import atmosphere

NAMES = ["AtUri", "Atmosphere", "Identity", "Record", "Write", "Written"]


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_these_are_the_names() -> None:
    assert atmosphere.__all__ == NAMES
    assert set(dir(atmosphere)) >= set(NAMES)
    for name in NAMES:
        assert getattr(atmosphere, name).__name__ == name
    with pytest.raises(AttributeError, match=r"module 'atdata.atmosphere' has no attribute 'Atmosfear'"):
        atmosphere.Atmosfear  # noqa: B018


def test_importing_it_costs_nothing() -> None:
    loaded = run("import sys; import atdata.atmosphere; print(*sys.modules)").split()
    ours = {name for name in loaded if name.startswith("atdata")}
    assert ours == {"atdata", "atdata.atmosphere"}


def test_a_client_brings_in_what_it_needs_when_it_needs_it() -> None:
    loaded = set(run("import sys; from atdata.atmosphere import Atmosphere; Atmosphere(); print(*sys.modules)").split())
    assert not loaded & {
        "httpcore",
        "cryptography",
        "dns",
        "keyring",
        "numpy",
        "pyarrow",
        "rich",
        "typer",
        "atdata.stores",
    }


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("httpcore", "Atmosphere().get_record('at://did:plc:a/com.example.thing/x')"),
        ("dnspython", "Atmosphere().resolve('alice.example.org'.replace('example', 'invalid-name'))"),
    ],
)
def test_what_is_not_installed_is_named_with_what_to_do(package: str, call: str) -> None:
    module = "dns" if package == "dnspython" else package
    program = f"""
import sys
sys.modules[{module!r}] = None
from atdata.atmosphere import Atmosphere
from atdata.errors import AtmosphereError
try:
    {call}
except AtmosphereError as error:
    print(error)
"""
    assert run(program) == f"the AT Protocol network needs {package}: pip install 'atdata[atmosphere]'\n"
