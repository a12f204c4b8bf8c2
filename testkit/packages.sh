#!/bin/sh
# Debian packages that tests use: packages.sh PACKAGE... Installs those that are missing, and says so. Runs as root.
set -eu
here=$(dirname "$0")

missing=
for package in "$@"; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing$missing"
# No database is started for the host: the tests make their own.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
# Nor is a server that a package brings: Debian asks this program before it starts one. It must not stay: with it, none
# would ever be started. The shell runs the trap of EXIT after a signal only where the signal has one that exits; and
# one that was killed has left it.
policy=/usr/sbin/policy-rc.d
mark="# of gateway-testkit, while it installs packages"
if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 0755 "$policy"
fi
# shellcheck disable=SC2086 # a list
"$here/apt.sh" $missing
