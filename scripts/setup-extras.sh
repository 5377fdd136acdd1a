#!/usr/bin/env bash
# Make .venv-extras: an interpreter with what the examples of services serve and this project itself
# does not need. A language model (torch, its build for CPUs, and transformers' OpenAI-compatible
# server) and a web app (streamlit): 1.6 GB, a minute and a half. May be repeated; does nothing when
# it is up to date. Called by `make extras`, `make test` and the tests' fixtures.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. scripts/lib.sh

PYTHON=${PYTHON:-python3}
FOLDER=.venv-extras
STAMP=$FOLDER/.installed-from
LOCK=${TMPDIR:-/tmp}/dstack-jupyter-setup-extras.$(id -u).lock

# The part after + is what keeps pip from the build for GPUs, which is ten times as large. Elsewhere
# than on Linux the plain build is the one for CPUs.
TORCH=torch==2.13.0
[ "$(uname -s)" = Linux ] && TORCH=$TORCH+cpu
PACKAGES=("$TORCH" 'transformers[serving]==5.23.0' 'streamlit==1.67.0')

exec 9>"$LOCK"
flock 9
if [ "$(cat "$STAMP" 2>/dev/null)" = "${PACKAGES[*]}" ] && "$FOLDER/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

say "making $FOLDER (a minute or two)"
"$PYTHON" -m venv --clear "$FOLDER"
log=$FOLDER/install.log
"$FOLDER/bin/pip" install "${PACKAGES[@]}" >"$log" 2>&1 </dev/null 9>&- || {
    tail -n 20 "$log" >&2
    fail "pip could not install; the whole log is $log. Where it knows no ${TORCH}, tell it of an index
that has torch's builds for CPUs (PIP_EXTRA_INDEX_URL; the address is in torch's instructions)"
}
printf '%s' "${PACKAGES[*]}" >"$STAMP"
