#!/bin/sh
# Installs Debian packages: apt.sh PACKAGE... Waits five minutes for whoever else is at it: a fresh Ubuntu upgrades
# itself. Runs as root.
set -eu
patience=300

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
command -v apt-get >/dev/null 2>&1 || fail "this machine has no apt-get. Install $* by hand, then run make again."

# apt-get waits for the lock of the packages, but not for that of the lists.
waited=0
until said=$(LC_ALL=C apt-get update -qq -o DPkg::Lock::Timeout="$patience" 2>&1 >/dev/null); do
    case $said in *lists/lock*) ;; *) fail "apt-get update failed, the package mirror must be reachable: $said" ;; esac
    [ "$waited" -lt "$patience" ] || fail "another program has been at the package lists for $patience s: $said"
    sleep 5
    waited=$((waited + 5))
done
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout="$patience" "$@" >/dev/null ||
    fail "apt-get could not install $*. Install that by hand, then run make again."
