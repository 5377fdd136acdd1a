#!/usr/bin/env bash
# Have what a bed of SSH hosts is made of, each a real sshd and a real Docker Engine in namespaces of
# its own: OpenSSH's server, tools for networks, the Docker Engine. Nothing of it is started here.
# May be repeated; called by `make test`, `make prove` and the tests' fixtures.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

LOCK=${TMPDIR:-/tmp}/dstack-jupyter-setup-hosts.$(id -u).lock
PROGRAMS=(sshd ssh ssh-keygen dockerd ip tc iptables nsenter unshare)

has_all() {
    local program
    for program in "${PROGRAMS[@]}"; do command -v "$program" >/dev/null || return 1; done
}

exec 9>"$LOCK"
flock 9
if has_all; then exit 0; fi
had_sshd=$(command -v sshd || true)
apt_install openssh-server openssh-client docker.io iptables iproute2 util-linux ca-certificates
# A server that tests start in their own namespaces is no reason to open a door of this computer.
if [ -z "$had_sshd" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now ssh.service ssh.socket >/dev/null 2>&1 || true
fi
has_all || fail "still missing one of: ${PROGRAMS[*]}"
