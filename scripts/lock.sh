#!/usr/bin/env bash
# Writes requirements/*.txt anew from requirements/*.in and pyproject.toml: one lock for every
# supported Python and system, each package with its hashes. Pins stay as they are unless something
# asks for another; --upgrade (make lock ARGS=--upgrade) moves them all.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=${UV:-.venv/bin/uv}
command -v "$uv" >/dev/null || { echo "lock: no uv at $uv: run make setup first, or name one: make lock UV=uv" >&2; exit 1; }

lock() {
    local name=$1
    shift
    echo "lock: requirements/$name.txt"
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command "make lock" --output-file "requirements/$name.txt" \
        pyproject.toml "requirements/$name.in" "$@"
}

lock dev --extra demo --extra images --extra pandas "$@"
# What is measured is measured with the versions that are tested.
if [ -f requirements/bench.in ]; then lock bench --constraint requirements/dev.txt "$@"; fi
