"""Every command and option says what it is for, and saying so is quick."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main
from cli_process import environment

from atdata.cli.app import app


def tree(command, path=()):
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from tree(child, (*path, name))


COMMANDS = dict(tree(typer.main.get_command(app)))


def test_the_commands():
    assert set(COMMANDS) == {
        (), ("demo",), ("inspect",), ("head",), ("verify",), ("cp",), ("manifest",), ("manifest", "build"),
        ("ls",), ("search",), ("show",), ("diff",), ("rm",), ("gc",),
        ("publish",), ("pull",), ("unpublish",),
        ("index",), ("index", "migrate"), ("index", "copy"),
        ("schema",), ("schema", "show"), ("schema", "diff"), ("schema", "ls"),
        ("lens",), ("lens", "ls"), ("lens", "show"), ("lens", "path"),
        ("login",), ("logout",), ("whoami",),
        ("cache",), ("cache", "ls"), ("cache", "clear"), ("cache", "verify"),
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_everything_has_a_help_text(path):
    command = COMMANDS[path]
    assert command.help
    assert command.get_short_help_str(limit=60).rstrip(".") == command.help.split("\n")[0].rstrip(".") or path == ()
    for parameter in command.params:
        assert parameter.help, parameter.name
    if path and not hasattr(command, "commands"):
        assert "--json" in {option for p in command.params for option in p.opts}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_printed(run, path):
    answer = run(*path, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: atdata{''.join(f' {name}' for name in path)} ")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['atdata', '--help']\nfrom atdata.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} "
        "& {'numpy', 'pyarrow', 'rich', 'pandas', 'PIL', 'sklearn', 'webdataset', 'msgspec'}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True, timeout=60
    )
    assert done.stderr == "[]\n"
