#!/bin/sh
# A Docker engine on this machine, for the demo and the tests: found, or installed from the distribution, and started
# here where no init system does it. `engine.sh stop` ends an engine that this script started, once it runs nothing.
# Runs as root. Quick when all is in place.
set -eu
here=$(dirname "$0")
pidfile=/run/gateway-testkit-dockerd.pid
log=/var/log/gateway-testkit-dockerd.log

say() { printf '  %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
answers() { docker info >/dev/null 2>&1; }

# Whether a process lives and is that program: the number in a file that was left is somebody else's by now.
is() { awk -v name="$1" '/^Name:/ {n = $2} /^State:/ {s = $2} END {exit !(n == name && s != "Z")}' "/proc/$2/status" 2>/dev/null; }
named_by() { cat "$1" 2>/dev/null || true; }
started_here() { is dockerd "$(named_by "$pidfile")"; }

install_missing() {
    missing=""
    if ! command -v docker >/dev/null 2>&1 || { ! command -v dockerd >/dev/null 2>&1 && ! answers; }; then
        missing="docker.io iptables"
    fi
    command -v mmdebstrap >/dev/null 2>&1 || missing="$missing mmdebstrap debian-archive-keyring"
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 ||
        fail "this machine has no apt-get. Install a Docker engine and mmdebstrap by hand, then run make again."
    say "installing what is missing: $missing (about a minute)"
    # shellcheck disable=SC2086  # a list of packages
    "$here/apt.sh" $missing
    # From Debian 13 on the client is a package of its own.
    command -v docker >/dev/null 2>&1 || "$here/apt.sh" docker-cli
}

start() {
    answers && return 0
    if [ -d /run/systemd/system ]; then
        say "starting the Docker engine with systemd"
        systemctl start docker || fail "systemctl start docker failed: see journalctl -u docker."
    else
        say "starting the Docker engine (no init system here; its log is $log)"
        # With what one that was killed has left it would not start.
        started_here || rm -f "$pidfile"
        containerd=/run/docker/containerd/containerd.pid
        is containerd "$(named_by "$containerd")" || rm -f "$containerd"
        setsid nohup dockerd --pidfile "$pidfile" >"$log" 2>&1 </dev/null &
    fi
    tries=0
    until answers; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || fail "the Docker engine did not answer within 60 s: see $log."
        sleep 1
    done
}

stop() {
    started_here || { rm -f "$pidfile"; return 0; }
    running=$(docker ps --quiet) || { say "the Docker engine stays: it does not say what it runs"; return 0; }
    [ -z "$running" ] || { say "the Docker engine stays: other containers run"; return 0; }
    pid=$(cat "$pidfile")
    say "stopping the Docker engine that was started here"
    kill "$pid"
    tries=0
    while is dockerd "$pid"; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "the Docker engine (process $pid) did not end within 60 s: see $log."
        sleep 0.2
    done
    ip link delete docker0 2>/dev/null || true   # absent when the engine made no bridge
    rm -f "$pidfile"
}

if [ "${1:-start}" = stop ]; then
    stop
else
    install_missing
    start
    say "Docker engine $(docker version --format '{{.Server.Version}}') answers"
fi
