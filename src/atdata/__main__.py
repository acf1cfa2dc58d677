"""`python -m atdata`: the `atdata` command."""

from atdata.cli import main

if __name__ == "__main__":
    main()
