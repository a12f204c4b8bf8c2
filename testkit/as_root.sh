#!/bin/sh
# Runs a command as root, with the environment that it was given: as_root.sh COMMAND...
set -eu
[ "$(id -u)" != 0 ] || exec "$@"
command -v sudo >/dev/null 2>&1 || { echo "error: this needs root, and there is no sudo: run make as root." >&2; exit 1; }
# sudo puts its own in the place of these two, and some sudos know no -E.
exec sudo -E env HOME=/root PATH="$PATH" LC_ALL="${LC_ALL:-C.UTF-8}" "$@"
