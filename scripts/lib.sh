# shellcheck shell=bash
# What the setup scripts share: talking to the reader, and asking apt for packages.

say() { printf '%s: %s\n' "${0##*/}" "$*"; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# apt_install PACKAGE...: install what is missing, without recommended extras and without questions.
apt_install() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || fail "needs ${missing[*]}; this system has no apt-get, install them by hand"
    [ "$(id -u)" -eq 0 ] || fail "needs ${missing[*]}; run as root, or: sudo apt-get install ${missing[*]}"
    apt_lists "${missing[@]}"
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "${missing[@]}" </dev/null >/dev/null ||
        fail "apt-get could not install ${missing[*]}"
}

# apt_lists PACKAGE...: fetch apt's package lists when they do not know one of these packages.
apt_lists() {
    local package
    for package in "$@"; do
        if ! apt-cache policy "$package" 2>/dev/null | grep -q 'Candidate: [^(]'; then
            [ "$(id -u)" -eq 0 ] || fail "apt does not know $package; run as root: apt-get update"
            say "fetching apt's package lists"
            apt-get update -qq -o DPkg::Lock::Timeout=300 </dev/null || say "apt-get update reported errors"
            return 0
        fi
    done
}
