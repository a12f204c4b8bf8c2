#!/bin/sh
# A virtual environment with the pinned packages: venv.sh DIRECTORY REQUIREMENTS. PYTHON may be set.
set -eu
here=$(dirname "$0")
venv=$1 requirements=$2 python=${PYTHON:-python3}

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null 2>&1 || fail "there is no $python. Install Python 3.11 or newer, or say which: make PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old. Python 3.11 or newer is needed: make PYTHON=python3.12, say."
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    command -v apt-get >/dev/null 2>&1 || fail "$python has no venv module. Install it, then run make again."
    say "installing python3-venv"
    "$here/as_root.sh" "$here/apt.sh" python3-venv
fi
say "Installing the pinned Python packages into $venv (first time: about two minutes)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$requirements" ||
    fail "pip could not install $requirements: see above. Behind an intercepting proxy, set PIP_CERT to its CA bundle."
