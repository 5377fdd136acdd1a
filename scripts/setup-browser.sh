#!/usr/bin/env bash
# Make a Chromium available for the browser tests: one that is installed, else Debian's,
# else (Ubuntu, whose package is a snap) the one that Playwright brings. May be repeated.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"

for name in chromium google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null; then exit 0; fi
done

# Debian's real package is a browser; Ubuntu's is a few kilobytes that ask for snapd.
. /etc/os-release
if [ "${ID:-}" = debian ]; then
    apt_install chromium
    exit 0
fi

python=$(dirname "$(readlink -f "$0")")/../.venv/bin/python
if ! "$python" - <<'FOUND'
import sys
from pathlib import Path
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    sys.exit(0 if Path(playwright.chromium.executable_path).exists() else 1)
FOUND
then
    say "letting Playwright fetch its Chromium"
    if [ "$(id -u)" -eq 0 ]; then
        "$python" -m playwright install --with-deps chromium
    else
        "$python" -m playwright install chromium
    fi
fi
