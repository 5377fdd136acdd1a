#!/usr/bin/env bash
# Make .venv and install this project into it, editable, with what its tests and demo need.
# As root it may install Python's venv module by apt first. Does nothing when .venv is up to date.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. scripts/lib.sh

PYTHON=${PYTHON:-python3}
STAMP=.venv/.installed-from
LABEXTENSION=.venv/share/jupyter/labextensions/dstack-jupyter

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# A venv needs pip's wheels, which Debian and Ubuntu keep in a package of their own.
can_make_venvs() { "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; }

# What pip installs depends on these; the stamp holds their content.
wanted() { cat pyproject.toml hatch_build.py engine/dstack_engine/__init__.py | sha256sum; }

if ! command -v "$PYTHON" >/dev/null; then apt_install python3 python3-venv; fi
new_enough "$PYTHON" || fail "needs Python 3.10 or newer; try: make PYTHON=/path/to/python3.12"
if [ "$(cat "$STAMP" 2>/dev/null)" = "$(wanted)" ] && new_enough .venv/bin/python; then exit 0; fi

if ! new_enough .venv/bin/python; then
    if ! can_make_venvs; then
        version=$("$PYTHON" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        apt_install "$version-venv"
    fi
    say "making .venv"
    "$PYTHON" -m venv --clear .venv
fi
say "installing into .venv (a minute or two)"
log=.venv/install.log
# The page's side is built by setup-labextension.sh, for those who want it; its link would mislead pip.
rm -f "$LABEXTENSION" 2>/dev/null || true
HATCH_JUPYTER_BUILDER_SKIP_NPM=1 .venv/bin/pip install --editable '.[test]' >"$log" 2>&1 </dev/null || {
    tail -n 20 "$log" >&2
    fail "pip could not install; the whole log is $log"
}
wanted >"$STAMP"
