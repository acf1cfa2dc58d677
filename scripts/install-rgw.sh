#!/usr/bin/env bash
# Gets the Ceph RADOS gateway, the S3 server that the tests of object stores run against, or finds it
# already there and says nothing. Unpacks the system's own packages into .tools/rgw: installs nothing,
# needs no root, changes nothing outside this folder. Safe to interrupt, to repeat, and to run twice
# at the same time. (tests/servers/rgw.py starts the server.)
#
#   scripts/install-rgw.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly tools=$PWD/.tools
readonly target=$tools/rgw
readonly programs="ceph-mon ceph-osd radosgw radosgw-admin monmaptool"
# To be raised when what is unpacked changes, so that folders made before are made anew.
readonly recipe=1

say() { echo "install-rgw: $*"; }
fail() {
    printf 'install-rgw: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '             %s\n' "$@" >&2; fi
    exit 1
}

on_system() {
    local program
    for program in $programs; do command -v "$program" >/dev/null || return 1; done
}

# What the programs in a folder need and neither the folder nor the system has.
missing_in() {
    local lib program paths=
    for lib in "$1"/usr/lib/*-linux-gnu* "$1"/lib/*-linux-gnu*; do
        if [ -d "$lib" ]; then paths=$paths:$lib:$lib/ceph; fi
    done
    for program in $programs; do
        LD_LIBRARY_PATH=${paths#:} ldd "$1/usr/bin/$program" 2>&1 || echo "$program: not found"
    done | awk '/not found/ {print $1}' | sort -u
}

# The check of the libraries is for a system that was upgraded, or a checkout brought to another one.
complete() {
    [ "$(cat "$target/.recipe" 2>/dev/null)" = "$recipe" ] && [ -z "$(missing_in "$target")" ]
}

if on_system || complete; then exit 0; fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    fail "the tests of object stores need Ceph's RADOS gateway, and this system has no apt-get to get it with." \
        "Install it with your system's package manager, so that these are on the PATH: $programs"
fi

mkdir -p "$tools"
# The kernel frees this lock with the last process that holds the file open, however that process ends.
exec 9>"$tools/rgw.lock"
if ! flock -n 9; then
    say "another run of this script is at work; waiting for it"
    flock -w 1800 9 || fail "another run of this script has not ended in 30 minutes."
fi
if complete; then exit 0; fi

rm -rf "$tools"/rgw.new "$target"
readonly new=$tools/rgw.new
mkdir -p "$new"/apt/lists/partial "$new"/apt/cache/archives/partial "$new"/packages "$new"/tree

# Lists and caches of our own: refreshing the system's would need root.
apt() {
    apt-get -qq -o Dir::State::Lists="$new/apt/lists" -o Dir::Cache="$new/apt/cache" -o APT::Sandbox::User= \
        -o Debug::NoLocking=true -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" >"$new/apt.log" 2>"$new/apt.err" 9>&- || {
        tail -n 15 "$new/apt.log" "$new/apt.err" >&2
        fail "apt-get $1 failed (its own report is above)." \
            "The tests of object stores need Ceph's RADOS gateway. Put that right, then run this again."
    }
}

say "unpacking Ceph's RADOS gateway into .tools/rgw (about 60 MB to fetch)"
apt update
apt --simulate install --no-install-recommends ceph-mon ceph-osd radosgw
# Left out: what a real cluster's disks, services and administrators need, and nothing here does.
readonly unwanted='python3.*|libpython3.*|perl.*|sudo|adduser|passwd|systemd.*|cron.*|logrotate|libpopt.*|media-types'
readonly unwanted_disks='lvm2|dmeventd|liblvm2cmd.*|libdevmapper-event.*|cryptsetup.*|smartmontools|nvme-cli|libnvme.*|
dmidecode|parted|libparted.*|hdparm|gdisk|xfsprogs|libinih.*|liburcu.*|uuid-runtime'
awk '$1 == "Inst" {print $2}' "$new/apt.log" | grep -vxE "$unwanted|${unwanted_disks//$'\n'/}" >"$new/names"
cd "$new/packages"
# shellcheck disable=SC2046  # one argument for each name
apt download $(cat "$new/names")
for package in *.deb; do dpkg-deb --extract "$package" "$new/tree"; done
cd "$tools"
rm -rf "$new"/tree/{etc,sbin,var} "$new"/tree/usr/{sbin,share}
for program in "$new"/tree/usr/bin/*; do
    case " $programs " in *" ${program##*/} "*) ;; *) rm -rf "$program" ;; esac
done
unmet=$(missing_in "$new/tree")
[ -z "$unmet" ] || fail "unpacked, and these libraries are missing:" "${unmet//$'\n'/ }"
echo "$recipe" >"$new/tree/.recipe"
mv "$new/tree" "$target"
rm -rf "$new"
say "done ($(du -sh "$target" | cut -f1))"
