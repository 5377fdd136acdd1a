#!/usr/bin/env bash
# Make a Chromium available for the browser tests: one that is installed, else Debian's,
# else (Ubuntu, whose package is a snap) the one that Playwright brings. May be repeated.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. scripts/lib.sh

has_chromium() {
    command -v chromium || command -v google-chrome || command -v google-chrome-stable
} >/dev/null

has_playwrights() {
    .venv/bin/python - <<'FOUND'
import sys
from pathlib import Path
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    sys.exit(0 if Path(playwright.chromium.executable_path).exists() else 1)
FOUND
}

is_debian() { grep -qx 'ID=debian' /etc/os-release; }

# Playwright's driver brings its own Node.js, which needs a library that small systems lack.
.venv/bin/playwright --version >/dev/null 2>&1 || apt_install libatomic1

if has_chromium; then exit 0; fi
if is_debian; then
    apt_install chromium fonts-dejavu-core
elif ! has_playwrights; then
    say "letting Playwright fetch its Chromium"
    with_deps=$([ "$(id -u)" -eq 0 ] && echo --with-deps || true)
    .venv/bin/playwright install $with_deps chromium
fi
