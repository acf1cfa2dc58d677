"""The `atdata` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the `atdata` command with the arguments of this process; always ends in SystemExit."""
    from atdata.cli.interrupt import end_soon, say_interrupted

    try:
        end_soon()
        from atdata.cli.app import app

        app(prog_name="atdata")
    except KeyboardInterrupt:  # outside of any command, for example while modules are imported
        say_interrupted()
        sys.exit(130)
