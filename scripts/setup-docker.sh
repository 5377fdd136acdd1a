#!/usr/bin/env bash
# Make a Docker Engine answer on this machine: install Debian's or Ubuntu's own when none is there,
# start it when none runs. May be repeated; called by `make test` and by the tests' fixtures.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

SOCKET=${DOCKER_SOCKET:-/var/run/docker.sock}
LOG=${DOCKERD_LOG:-/var/log/dockerd.log}
LOCK=/run/dstack-jupyter-setup-docker.lock
PATIENCE=60 # seconds that a starting engine is given

# Python rather than curl: it is there, and curl often is not.
answers() {
    python3 - "$SOCKET" <<'PING' 2>/dev/null
import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])
s.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
sys.exit(0 if b" 200 " in s.recv(64) else 1)
PING
}

wait_until_it_answers() {
    local deadline=$((SECONDS + PATIENCE))
    until answers; do
        if [ $SECONDS -ge $deadline ] || { [ -n "${1:-}" ] && ! kill -0 "$1" 2>/dev/null; }; then
            [ -r "$LOG" ] && tail -n 20 "$LOG" >&2
            fail "the Docker Engine did not answer at $SOCKET; its log is $LOG"
        fi
        sleep 0.2
    done
}

start() {
    if [ -d /run/systemd/system ]; then
        systemctl start docker || fail "systemd could not start docker; see: journalctl -u docker"
        wait_until_it_answers
        return
    fi
    # No init system (a container, a small virtual machine): the engine is started by hand, detached.
    # Descriptor 9 is this script's lock; dockerd must not inherit it.
    setsid nohup dockerd --host "unix://$SOCKET" </dev/null >>"$LOG" 2>&1 9>&- &
    wait_until_it_answers $!
}

if answers; then exit 0; fi
[ "$(id -u)" -eq 0 ] || fail "no Docker Engine answers at $SOCKET, and only root can start one"

exec 9>"$LOCK"
flock 9
if answers; then exit 0; fi
command -v dockerd >/dev/null || apt_install docker.io iptables iproute2 ca-certificates
if ! answers; then
    say "starting the Docker Engine (log: $LOG)"
    start
fi
say "the Docker Engine answers at $SOCKET"
