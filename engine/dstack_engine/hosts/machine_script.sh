# Looks into a machine and changes nothing there. Any POSIX sh runs it, as whoever logged in.
# Before it stand: mark, the word that begins every line of ours; root, Docker's folder; patience,
# the seconds after which what hangs is given up. What may hang runs beside the rest.

LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PATH=$PATH:/usr/local/cuda/bin:/opt/rocm/bin:/usr/lib/wsl/lib:/snap/bin
export LC_ALL PATH
umask 077
ulimit -f 4096 2>/dev/null

say() { # PART: tells what comes in, no more than 64 KiB and no strange letters, each line marked
  { head -c 65536 | tr -cd '\11\12\40-\176'; echo; } | sed "s/^/$mark $1 /"
}

tell_clock() {
  date +%s.%N | say clock
}

make_folder() { # in memory, where that can be: the disk may be full
  for place in /dev/shm "$XDG_RUNTIME_DIR" "${TMPDIR:-/tmp}" "$HOME"; do
    [ -n "$place" ] && [ -d "$place" ] && [ -w "$place" ] || continue
    folder=$place/.dstack-jupyter-$mark
    mkdir "$folder" 2>/dev/null && return 0
  done
  return 1
}

begin() { # PART COMMAND...: runs it beside the rest
  part=$1
  shift
  parts="$parts $part"
  (
    "$@" >"$folder/$part.out" 2>"$folder/$part.err" &
    echo $! >"$folder/$part.pid"
    wait $!
    echo $? >"$folder/$part.end"
  ) </dev/null >/dev/null 2>&1 &
}

ended() {
  for part in $parts; do
    [ -s "$folder/$part.end" ] || return 1
  done
}

await() {
  tenths=0
  until ended || [ "$tenths" -ge $((patience * 10)) ]; do
    sleep 0.1 2>/dev/null || { sleep 1; tenths=$((tenths + 9)); }
    tenths=$((tenths + 1))
  done
}

tell() { # PART: what it printed, and how it ended
  say "$1" <"$folder/$1.out" 2>/dev/null
  say "$1.err" <"$folder/$1.err" 2>/dev/null
  if [ -s "$folder/$1.end" ]; then
    say "$1.end" <"$folder/$1.end"
  else
    process=$(cat "$folder/$1.pid")
    kill -9 "$process" $(cat "/proc/$process/task/$process/children") 2>/dev/null
    echo hung | say "$1.end"
  fi
}

# The parts

look_system() {
  grep -E '^(ID|ID_LIKE|PRETTY_NAME)=' /etc/os-release
  echo "KERNEL=$(uname -sr)"
  echo "ARCH=$(uname -m)"
  echo "USER=$(id -un)"
  echo "UID=$(id -u)"
  echo "BOOT=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
  echo "CPUS=$(getconf _NPROCESSORS_ONLN 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
  echo "MEMORY_KB=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
  echo "CONNECTION=$SSH_CONNECTION"
}

look_disk() {
  df -Pk "$root" 2>/dev/null || df -Pk /var/lib 2>/dev/null || df -Pk /
}

look_docker() {
  socket=/var/run/docker.sock
  [ -S $socket ] && echo SOCKET=yes
  [ -w $socket ] && echo WRITABLE=yes
  [ -S "/run/user/$(id -u)/docker.sock" ] && echo ROOTLESS=yes
  for name in dockerd docker podman apt-get dnf yum systemctl; do
    command -v $name >/dev/null 2>&1 && echo "HAS=$name"
  done
  if [ -w $socket ] && command -v curl >/dev/null 2>&1; then
    echo "PING=$(curl -s -m 3 --unix-socket $socket http://localhost/_ping)"
  fi
}

look_network() {
  if command -v ip >/dev/null 2>&1; then
    ip -o -4 addr show scope global | while read -r _ name _ address _; do
      echo "$name ${address%/*} $(cat "/sys/class/net/$name/speed" 2>/dev/null)"
    done
  else
    for address in $(hostname -I); do echo "? $address"; done
  fi
}

query_nvidia() { # FIELDS
  nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits
}

look_nvidia() {
  command -v nvidia-smi >/dev/null 2>&1 || return 127
  fields=uuid,name,memory.total,memory.used,mig.mode.current,driver_version,index
  # Drivers before 2021 know no compute_cap, and refuse all when asked for it.
  query_nvidia "$fields,compute_cap,ecc.errors.uncorrected.volatile.total" >"$folder/asked"
  code=$?
  if grep -q 'not a valid field' "$folder/asked"; then
    query_nvidia "$fields"
    return
  fi
  cat "$folder/asked"
  return $code
}

look_nvidia_use() {
  command -v nvidia-smi >/dev/null 2>&1 || return 127
  nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory,process_name \
    --format=csv,noheader,nounits >"$folder/use" || return
  sed 's/^/use /' "$folder/use"
  cut -d, -f2 "$folder/use" | sort -u | head -n 200 | while read -r pid; do
    sed "s/^/cgroup $pid /" "/proc/$pid/cgroup"
  done
}

look_nvidia_ground() {
  for device in /sys/bus/pci/devices/*; do
    [ "$(cat "$device/vendor")" = 0x10de ] || continue
    case $(cat "$device/class") in 0x0300* | 0x0302*) echo "CARD=${device##*/}" ;; esac
  done
  for name in nvidia-container-runtime-hook nvidia-ctk nvidia-container-cli; do
    command -v $name >/dev/null 2>&1 && echo "HAS=$name"
  done
  echo "TOOLKIT=$(nvidia-ctk --version 2>/dev/null | sed -n 's/.*version \([0-9.]*\).*/\1/p' | head -n 1)"
}

look_amd() {
  for node in /sys/class/drm/renderD*; do
    [ "$(cat "$node/device/vendor")" = 0x1002 ] || continue
    bus=$(readlink -f "$node/device")
    for fact in device unique_id mem_info_vram_total mem_info_vram_used product_name; do
      echo "${node##*/} ${bus##*/} $fact $(cat "$node/device/$fact")"
    done
  done
  [ -e /dev/kfd ] && echo "KFD=yes"
  echo "DRIVER=$(cat /sys/module/amdgpu/version)"
}

look_amd_names() {
  if command -v amd-smi >/dev/null 2>&1; then
    amd-smi static --asic --bus --json
  elif command -v rocm-smi >/dev/null 2>&1; then
    rocm-smi --showproductname --showbus --json
  else
    return 127
  fi
}

tell_clock
make_folder || {
  echo "no folder can be made" | say folder
  exit 1
}
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

parts=
begin system look_system
begin disk look_disk
begin docker look_docker
begin network look_network
begin nvidia look_nvidia
begin nvidia-use look_nvidia_use
begin nvidia-ground look_nvidia_ground
begin amd look_amd
begin amd-names look_amd_names
await
for each in $parts; do tell "$each"; done
tell_clock
echo 0 | say over
