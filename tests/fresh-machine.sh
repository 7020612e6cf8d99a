#!/bin/sh
# Builds and tests the tree on a machine that has nothing: a Debian 12 of debootstrap's smallest variant
# with make, git and ca-certificates, in a folder, entered with chroot.  Needs root, debootstrap and network.
#
#   sh tests/fresh-machine.sh FOLDER [GOAL...]     goals: test demo unless given
#
# FOLDER is made when it is not there and kept for the next time; remove it by hand.
# MIRROR is the package mirror; unset, the one this machine uses, else Debian's own.  RELEASE [bookworm].
# The tree is what git would commit, changes included.
set -eu

fail() { printf 'fresh-machine: %s\n' "$*" >&2; exit 1; }

[ $# -gt 0 ] || fail 'usage: sh tests/fresh-machine.sh FOLDER [GOAL...]'
folder=$1
shift
[ $# -gt 0 ] || set -- test demo
[ "$(id -u)" = 0 ] || fail 'chroot needs root.'
command -v debootstrap >/dev/null || fail 'debootstrap is not installed.'
cd "$(dirname "$0")/.."

release=${RELEASE:-bookworm}
if [ -z "${MIRROR-}" ]; then
    MIRROR=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.* 2>/dev/null |
        sed -n 's,^\(URIs:\|deb\( \[[^]]*\]\)\?\) *\(https\?://[^ ]*/debian/\?\)\( .*\)\?$,\3,p' | sed -n 1p)
fi
MIRROR=${MIRROR:-http://deb.debian.org/debian}

if [ ! -f "$folder/etc/debian_version" ]; then
    mkdir -p "$folder"
    debootstrap --variant=minbase --include=make,git,ca-certificates "$release" "$folder" "$MIRROR"
fi
folder=$(cd "$folder" && pwd -P)

# The chroot reaches packages the way this machine does.
printf 'deb %s %s main\n' "$MIRROR" "$release" >"$folder/etc/apt/sources.list"
printf 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n' >"$folder/etc/apt/apt.conf.d/90fresh"
apt-config dump 2>/dev/null | grep -iE '^Acquire::https?::Proxy ' >>"$folder/etc/apt/apt.conf.d/90fresh" || true
cp /etc/resolv.conf /etc/hosts "$folder/etc/" 2>/dev/null || true

leave()
{
    for mount in dev proc; do
        umount -l "$folder/$mount" 2>/dev/null || true
    done
}
trap leave EXIT
trap 'exit 1' HUP INT TERM
mount -t proc proc "$folder/proc"
mount --bind /dev "$folder/dev"

for goal in "$@"; do
    rm -rf "$folder/root/lora-train"
    mkdir -p "$folder/root/lora-train"
    git ls-files -co --exclude-standard | while IFS= read -r file; do
        [ ! -f "$file" ] || printf '%s\n' "$file"
    done | tar -cf - -T - | tar -xf - -C "$folder/root/lora-train"
    printf '== make %s\n' "$goal"
    case $goal in
    ci) command='CI=true bash .ci/run' ;;
    *) command="make $goal" ;;
    esac
    chroot "$folder" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        sh -c "cd /root/lora-train && $command" </dev/null
done
