#!/bin/sh
# Debian packages that tests use: packages.sh PACKAGE... Installs those that are missing, and says so.
set -eu

missing=
for package in "$@"; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
command -v apt-get >/dev/null 2>&1 || fail "the tests use$missing: install that, then run make again."
echo "installing$missing"
apt-get update -qq >/dev/null
# No database is started for the host: the tests make their own.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
# Nor is a server that a package brings: Debian asks this program before it starts one.
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 0755 "$policy"; trap 'rm -f "$policy"' EXIT; }
# shellcheck disable=SC2086 # a list
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    fail "apt-get could not install$missing. Install that by hand, then run make again."
