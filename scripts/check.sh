#!/usr/bin/env bash
# Runs every check to its end, whatever fails on the way, and closes with one summary.
#
#   scripts/check.sh lint          style, types, imports
#   scripts/check.sh all [ARGS]    the same, then all tests with coverage; ARGS go to pytest
#   scripts/check.sh fast [ARGS]   only the tests that are not marked slow, without coverage
#
# VENV names the virtual environment (default .venv), JOBS the number of test processes.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
readonly bin=$PWD/${VENV:-.venv}/bin
what=${1:-all}
shift || true

cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Two at the least: a test that leans on what another left behind should fail everywhere.
readonly jobs=${JOBS:-$((cores < 2 ? 2 : cores))}

summary=()
failed=0

servers() {
    check "S3 server" scripts/install-server.sh rgw
    check "PostgreSQL" scripts/install-server.sh postgres
    check "Redis" scripts/install-server.sh redis
    check "AT Protocol" scripts/install-server.sh atproto
    check "Azure" scripts/install-server.sh azurite
}

check() {
    local name=$1 start=$SECONDS status=0 word=ok
    shift
    printf '\n--- %s\n' "$name"
    "$@" || status=$?
    if [ "$status" != 0 ]; then
        word=FAILED
        failed=$((failed + 1))
    fi
    summary+=("$(printf '  %-7s %-16s %4d s' "$word" "$name" "$((SECONDS - start))")")
}

lint() {
    check "ruff check" "$bin/ruff" check .
    check "ruff format" "$bin/ruff" format --check .
    check "mypy --strict" "$bin/mypy" --strict
    check "lint-imports" "$bin/lint-imports" --no-logo
}

pytest() { "$bin/python" -m pytest -n "$jobs" --dist worksteal "$@"; }

case $what in
    lint)
        lint
        ;;
    fast)
        servers
        check "fast tests" pytest -m "not slow" "$@"
        ;;
    all)
        lint
        servers
        "$bin/coverage" erase
        check "tests" pytest --cov --cov-report= --cov-fail-under=0 "$@"
        check "coverage" "$bin/coverage" report
        ;;
    *)
        echo "check: lint, all or fast, not $what" >&2
        exit 2
        ;;
esac

printf '\n--- summary\n'
printf '%s\n' "${summary[@]}"
if [ "$failed" != 0 ]; then
    echo "failed: $failed of ${#summary[@]}"
    exit 1
fi
echo "all passed"
