#!/bin/bash
# The init of a host of the bed: starts sshd and the Docker Engine, starts either anew when told to
# (a word into /run/orders), and reaps what has no parent any more, as every process 1 must.
start() {
    case $1 in
        sshd) /usr/sbin/sshd -D -e -f /etc/bed/sshd_config -o PidFile=/run/sshd.pid >>/var/log/sshd.log 2>&1 & ;;
        docker) dockerd --pidfile /run/docker.pid >>/var/log/dockerd.log 2>&1 & ;;
    esac
}

mkdir -p /run/sshd
mkfifo -m 600 /run/orders
exec 3<>/run/orders
start sshd 3<&-
start docker 3<&-
while :; do
    read -r order <&3 && start "$order" 3<&-
done
