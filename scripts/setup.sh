#!/usr/bin/env bash
# Makes a virtual environment with the locked requirements and this checkout in it, or finds it
# already made and says nothing. Safe to interrupt, to repeat, and to run twice at the same time.
#
#   scripts/setup.sh [--venv .venv] [--requirements requirements/dev.txt] [--with FILE] [--no-deps FILE] [--version 3.12]
#
# --with names a second list, of packages that come without hashes, with what they ask for and the first does not have;
# --no-deps a third, of packages that are installed as they are, without what they ask for.
# PYTHON names the interpreter to use; without it, the first of python3.11, 3.12, 3.13 and python3
# that is new enough. --version asks for one minor version instead.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly root=$PWD

venv=.venv
requirements=requirements/dev.txt
with=
no_deps=
version=
while [ $# -gt 0 ]; do
    case $1 in
        --venv) venv=$2; shift 2 ;;
        --requirements) requirements=$2; shift 2 ;;
        --with) with=$2; shift 2 ;;
        --no-deps) no_deps=$2; shift 2 ;;
        --version) version=$2; shift 2 ;;
        *) echo "setup: unknown option $1" >&2; exit 2 ;;
    esac
done

say() { echo "setup: $*"; }
fail() {
    printf 'setup: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '       %s\n' "$@" >&2; fi
    exit 1
}

# Published as source only, so these need a C compiler and Python's headers where they are asked for.
readonly from_source=cbrrr

# This script deletes the folder it is given before it builds it anew: only ever one of these.
case $venv in
    */* | *..*) fail "--venv takes a name in the project's own folder, not $venv" ;;
    .venv | .venv-*) ;;
    *) fail "--venv takes .venv or .venv-NAME, not $venv" ;;
esac
readonly build_tools=requirements/build.txt
lists=("$build_tools" "$requirements")
if [ -n "$no_deps" ]; then lists+=("$no_deps"); fi
for list in "${lists[@]}" ${with:+"$with"}; do [ -f "$list" ] || fail "there is no $list"; done

# What the environment was made from is kept inside it; a copy is written only when a step is done,
# so an environment without its copies is one that was never finished.
readonly state=$venv/.setup

# ---- which interpreter -------------------------------------------------------------------------

# A command may exist and still not run (a version manager's stand-in for a version not chosen), so ask it.
suits() {
    [ "$("$1" -c '
import sys
wanted = sys.argv[1]
print("suits" if ("%d.%d" % sys.version_info[:2] == wanted if wanted else sys.version_info >= (3, 11)) else "no")' \
        "$version" 2>/dev/null)" = suits ]
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" || fail "PYTHON=$PYTHON does not run, or is not Python ${version:-3.11 or newer}."
        echo "$PYTHON"
        return
    fi
    if [ -n "$version" ]; then
        set -- "python$version" "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version"*/bin/python"$version" python3
    else
        set -- python3.11 python3.12 python3.13 python3
    fi
    for candidate in "$@"; do
        if suits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "found no Python ${version:-3.11 or newer} (looked for: $*)." \
        "Install one (on Debian and Ubuntu: apt-get install python3), or name it: make PYTHON=/path/to/python ..."
}

identity() { "$1" -c 'import sys; print(sys.version, sys.base_prefix)'; }

# ---- is it made already? -----------------------------------------------------------------------

have_packages() {
    cat "${lists[@]}" | cmp -s - "$state/requirements.txt" || return 1
    # Its scripts name the folder they were made in.
    [ "$(cat "$state/place" 2>/dev/null)" = "$root" ] || return 1
    # An interpreter that was removed or replaced since takes the environment with it.
    [ "$(identity "$venv/bin/python" 2>/dev/null)" = "$(cat "$state/python" 2>/dev/null)" ] || return 1
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" && [ "$(identity "$PYTHON")" = "$(cat "$state/python")" ] || return 1
    fi
}

project_facts() {
    cat pyproject.toml
    grep '^__version__' src/atdata/__init__.py || true
}

# An environment with more in it than was asked for serves as well, so this list is no part of the first.
have_more() { [ -z "$with" ] || cmp -s "$with" "$state/more.txt"; }

have_project() { [ "$(project_facts 2>/dev/null)" = "$(cat "$state/project" 2>/dev/null)" ]; }

# ---- what a bare system lacks ------------------------------------------------------------------

can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

builds_from_source() { grep -qE "^($from_source)==" "$requirements"; }

headers() { "$1" -c 'import sysconfig; print(sysconfig.get_path("include"))'; }

can_build() {
    local compiler
    compiler=$("$1" -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])')
    printf '#include <Python.h>\n' | "$compiler" -E -I "$(headers "$1")" - >/dev/null 2>&1
}

# The parts of Python that Debian and Ubuntu keep in packages of their own; nothing where nothing is missing.
install_system_packages() {
    local python=$1 name report as_root=
    name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    set --
    if ! can_make_venv "$python"; then set -- "$name-venv"; fi
    if builds_from_source && ! can_build "$python"; then
        set -- "$@" gcc libc6-dev
        if [ ! -f "$(headers "$python")/Python.h" ]; then set -- "$@" "$name-dev"; fi
    fi
    if [ $# = 0 ]; then return; fi

    command -v apt-get >/dev/null ||
        fail "$python lacks what Debian has in: $*." \
            "Install its like with your system's package manager, then run this again."
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null ||
            fail "$python lacks what is in: $*; and there is no sudo here to install it." "As root, run: apt-get install $*"
        as_root=sudo
        # Nobody is there to type a password: say so at once rather than wait.
        if [ ! -t 0 ]; then as_root="sudo -n"; fi
    fi
    say "installing with apt-get${as_root:+ and sudo}: $*"
    # Closing 9: a service that a package starts must not keep our lock.
    # shellcheck disable=SC2086  # as_root is a command and its option, or nothing
    if ! report=$({
        $as_root apt-get update -qq &&
            $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
                -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
    } 2>&1 9>&-); then
        tail -n 15 <<<"$report" >&2
        fail "could not install $* (apt-get's own report is above)." "Install them by hand, then run this again."
    fi
    can_make_venv "$python" || fail "$name-venv is installed, and $python still has no venv and ensurepip modules."
}

# ---- the steps ---------------------------------------------------------------------------------

# The kernel frees this lock with the last process that holds the file open, however that process ends.
take_turn() {
    local python=$1
    exec 9>"$venv.lock"
    "$python" - "$venv" <<'PYTHON' || fail "another setup of $venv has not ended in 30 minutes."
import fcntl, sys, time

deadline = time.monotonic() + 1800
told = False
while True:
    try:
        fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except BlockingIOError:
        if not told:
            print(f"setup: another setup of {sys.argv[1]} is running; waiting for it", flush=True)
            told = True
        if time.monotonic() > deadline:
            sys.exit(1)
        time.sleep(0.2)
    except OSError:
        break  # a file system without locks: go on alone
PYTHON
}

# What pip prints is shown only when it fails: its warnings about indexes and caches are not news to anybody here.
pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check "$@" >"$state/pip.log" 2>&1 || {
        tail -n 25 "$state/pip.log" >&2
        return 1
    }
}

# Wheels only, but for the known few: a hash vouches for a source archive, not for what its build would fetch.
install_locked() {
    pip install --quiet --no-input --progress-bar off --require-hashes --only-binary :all: -r "$build_tools" &&
        pip install --quiet --no-input --progress-bar off --require-hashes --only-binary :all: \
            --no-binary "$from_source" --no-build-isolation -r "$requirements" &&
        if [ -n "$no_deps" ]; then
            pip install --quiet --no-input --progress-bar off --only-binary :all: --no-deps -r "$no_deps"
        fi
}

# Of the packages that were installed as they are, no complaint counts.
packages_fit() {
    local excused
    if pip check 2>"$state/complaints"; then return; fi
    if [ -n "$no_deps" ]; then
        excused=$(sed -nE 's/^([A-Za-z0-9._-]+)==.*/\1/p' "$no_deps" | paste -sd '|' -)
        if ! grep -vE "^($excused) " "$state/pip.log" >"$state/complaints"; then return; fi
    fi
    cat "$state/complaints" >&2
    return 1
}

install_packages() {
    local python=$1
    if [ -e "$venv" ]; then
        if [ ! -d "$state" ] && [ -n "$(ls -A "$venv")" ]; then
            fail "$venv is there and was not made by this script." "Move it away or remove it, then run this again."
        fi
        # Out of the way in one step: a removal cut short must not look like somebody's folder.
        mv "$venv" "$venv.old.$$"
    fi
    rm -rf "$venv".old.*
    mkdir -p "$state"
    say "making $venv with $("$python" -c 'import sys; print("Python %d.%d.%d" % sys.version_info[:3], "at", sys.executable)')"
    "$python" -m venv "$venv" || fail "could not make the virtual environment $venv."
    say "installing the packages of ${lists[*]:1} (a minute or two)"
    install_locked ||
        fail "could not install the packages of ${lists[*]:1} (pip's own report is above)." \
            "Without a network, or behind a mirror or a proxy, tell pip where to look (PIP_INDEX_URL, PIP_PROXY, pip.conf)." \
            "Then run the same command again: it starts over cleanly."
    identity "$venv/bin/python" >"$state/python"
    echo "$root" >"$state/place"
    cat "${lists[@]}" >"$state/requirements.new"
    mv "$state/requirements.new" "$state/requirements.txt"
}

install_more() {
    say "installing the packages of $with"
    rm -f "$state/more.txt"
    pip install --quiet --no-input --progress-bar off --only-binary :all: -r "$with" ||
        fail "could not install the packages of $with (pip's own report is above)." "Put that right, then run the same command again."
    cp "$with" "$state/more.new"
    mv "$state/more.new" "$state/more.txt"
}

install_project() {
    rm -f "$state/project"
    say "installing atdata itself, editable"
    pip install --quiet --no-input --no-deps --no-build-isolation -e . ||
        fail "could not install atdata from this folder (pip's own report is above)."
    packages_fit || fail "$requirements and pyproject.toml do not fit together: run make lock."
    project_facts >"$state/project.new"
    mv "$state/project.new" "$state/project"
}

if have_packages && have_more && have_project; then exit 0; fi

python=$(find_python)
take_turn "$python"
if ! have_packages; then
    install_system_packages "$python"
    install_packages "$python"
fi
if ! have_more; then install_more; fi
if ! have_project; then install_project; fi
say "$venv is ready"
