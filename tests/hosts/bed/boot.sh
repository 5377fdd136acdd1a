#!/bin/bash
# Boots a host of the bed: process 1 of namespaces of its own. Lays the host's disk over this
# computer's root, so that all its programs are there, goes into it and becomes `init.sh`.
# boot.sh NAME FOLDER [SHOWN...]: FOLDER holds disk/ and root/, SHOWN are paths that it sees as we do.
# Called by tests/hosts/bed_host.py.
set -eu
name=$1 folder=$2
shift 2
root=$folder/root disk=$folder/disk

# The cgroups of the host are all it sees; in version 2 what is to have limits stands in leaves only.
mount_cgroups() {
    local line controllers folder
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    while IFS= read -r line; do
        controllers=${line#*:} controllers=${controllers%%:*}
        [ -n "$controllers" ] || continue
        folder=$root/sys/fs/cgroup/${controllers#name=}
        mkdir "$folder"
        mount -t cgroup -o "$controllers" cgroup "$folder"
    done </proc/self/cgroup
    if [ -z "$(ls "$root/sys/fs/cgroup")" ]; then
        umount "$root/sys/fs/cgroup"
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
        mkdir -p "$root/sys/fs/cgroup/init"
        echo $$ >"$root/sys/fs/cgroup/init/cgroup.procs"
        until sed 's/\(^\| \)/\1+/g' "$root/sys/fs/cgroup/cgroup.controllers" \
            >"$root/sys/fs/cgroup/cgroup.subtree_control"; do sleep 0.02; done
    fi
}

hostname "$name"
mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount_cgroups
mount --rbind /dev "$root/dev"
mount -t devpts -o newinstance,ptmxmode=666,gid=5,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for place in root home var/lib/docker; do
    mkdir -p "$root/$place"
    mount --bind "$disk/$place" "$root/$place"
done
for path in "$@"; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}" && touch "$root$path"; fi
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done
# Every boot has an id of its own, as on a real machine; the kernel's is that of this computer.
cat /proc/sys/kernel/random/uuid >"$root/run/boot_id"
mount --bind "$root/run/boot_id" "$root/proc/sys/kernel/random/boot_id"

mkdir -p "$root/.outside"
cd "$root"
pivot_root . .outside
cd /
umount -l /.outside
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    /bin/bash /etc/bed/init.sh
