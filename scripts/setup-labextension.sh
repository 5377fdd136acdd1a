#!/usr/bin/env bash
# Build the page's side, labextension/, into dstack_jupyter/labextension and show it to .venv's
# JupyterLab. Node.js is this machine's where that is new enough, else the one of a wheel from PyPI,
# in .venv. May be repeated: each step is done only when what it depends on has changed.
# Needs .venv. Called by `make lab`, `make check` and `make test`.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. scripts/lib.sh
. scripts/node.sh

BUILT=dstack_jupyter/labextension
STAMP=labextension/lib/.built-from
SHOWN=.venv/share/jupyter/labextensions/dstack-jupyter

# What is built depends on these; the stamp holds their content.
wanted() {
    find labextension/{src,style,schema,package.json,package-lock.json,tsconfig.json,rspack.config.js} -type f \
        -not -path '*/__tests__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
}

setup_node
setup_modules
if [ ! -e "$BUILT/static/style.js" ] || [ "$(cat "$STAMP" 2>/dev/null)" != "$(wanted)" ]; then
    say "building $BUILT"
    building=$(wanted)
    log=.venv/labextension.log
    (cd labextension && npm run build:prod) >"$log" 2>&1 </dev/null || {
        tail -n 30 "$log" >&2
        fail "the extension could not be built; the whole log is $log"
    }
    printf '%s\n' "$building" >"$STAMP"
fi

# A link, as of `jupyter-builder develop`: what is built next is seen by the next page that is loaded.
if [ "$(readlink -f "$SHOWN")" != "$(readlink -f "$BUILT")" ]; then
    rm -rf "$SHOWN"
    mkdir -p "${SHOWN%/*}"
    ln -s "$PWD/$BUILT" "$SHOWN"
fi
