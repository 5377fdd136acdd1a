"""Files of Debian or Ubuntu packages, fetched by apt and unpacked, without installing anything.

The test images and the test registry are made of these: nothing is pulled from an image registry,
and no service is started on the machine.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.hosts.commands import NoGround, output


def candidate_version(package: str) -> str:
    """Return the version of *package* that apt would install now."""
    for line in output(["apt-cache", "policy", package]).splitlines():
        if line.strip().startswith("Candidate:"):
            version = line.split(":", 1)[1].strip()
            if version != "(none)":
                return version
    raise NoGround(f"apt does not know {package}; run: apt-get update")


def with_dependencies(packages: Sequence[str], empty_status: Path) -> list[str]:
    """Return *packages* and all they need on an empty system, as apt's ``name=version``.

    *empty_status* is a path for a dpkg status file without entries.
    """
    empty_status.touch()
    options = ["--no-install-recommends", "-o", f"Dir::State::status={empty_status}"]
    plan = output(["apt-get", "--simulate", *options, "install", *packages])
    # A line of the plan: Inst bash (5.2.15-2+b8 Debian:12.11/oldstable [amd64])
    found = (line.split() for line in plan.splitlines() if line.startswith("Inst "))
    return sorted(f"{words[1]}={words[2].lstrip('(')}" for words in found)


def unpack(packages: Iterable[str], root: Path, downloads: Path) -> None:
    """Fetch *packages* into *downloads* and lay their files under *root*, links followed."""
    downloads.mkdir(parents=True, exist_ok=True)
    fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages]
    output(fetch, cwd=downloads)
    root.mkdir(parents=True, exist_ok=True)
    for archive in sorted(downloads.glob("*.deb")):
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE
        ) as contents:
            subprocess.run(
                ["tar", "-x", "-C", root, "--keep-directory-symlink", "--no-same-owner"],
                stdin=contents.stdout,
                check=True,
            )
