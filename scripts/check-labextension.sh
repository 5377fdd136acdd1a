#!/usr/bin/env bash
# The fast gate of the page's side: types, format, lint, units; side by side, since each takes seconds.
# With --format it formats and mends instead. Installs labextension/node_modules first where they are
# missing. Needs .venv. Called by `make check` and `make format`.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. scripts/lib.sh
. scripts/node.sh

setup_node
setup_modules
cd labextension
if [ "${1:-}" = --format ]; then
    npm run --silent format
    exec npm run --silent lint -- --fix
fi

failed=0
checks=()
for check in types format:check lint test; do
    npm run --silent "$check" >"node_modules/.check-${check%%:*}.log" 2>&1 </dev/null &
    checks+=("$!:$check")
done
for entry in "${checks[@]}"; do
    check=${entry#*:}
    wait "${entry%%:*}" || {
        cat "node_modules/.check-${check%%:*}.log" >&2
        say "npm run $check failed, in labextension/"
        failed=1
    }
done
[ "$failed" -eq 0 ] && say "types, format, lint and units are well"
exit "$failed"
