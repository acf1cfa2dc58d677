"""The `atdata` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the `atdata` command with the arguments of this process; always ends in SystemExit."""
    try:
        from atdata.cli.app import app

        app(prog_name="atdata")
    except KeyboardInterrupt:  # outside of any command, for example while modules are imported
        sys.stderr.write("\natdata: interrupted\n")
        sys.exit(130)
