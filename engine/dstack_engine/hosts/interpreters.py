"""Python interpreters for process-host jobs, and each job's own environment over one.

Without ``python:`` a job runs on the engine's interpreter and sees the packages that its user has
installed there; what it installs itself stays in the job's folder. With ``python:`` it gets a clean
environment over an interpreter of that version. Environments are made by hand, in milliseconds:
a `pyvenv.cfg`, links, and a `.pth` file.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from dstack_engine.errors import PythonUnavailable
from dstack_engine.hosts.base import ProgressSink

_PROBE = (
    "import sys; print('%d.%d' % sys.version_info[:2]); "
    "print(getattr(sys, '_base_executable', '') or sys.executable)"
)
_PROBE_SECONDS = 10
_FETCH_SECONDS = 900
_OLDEST_MINOR, _NEWEST_MINOR = 8, 20

#: The version that the engine itself runs on, e.g. ``3.11``.
OWN_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
#: The engine's interpreter below its virtual environment, if it has one.
OWN_BASE: str = getattr(sys, "_base_executable", "") or sys.executable

_PIP_SCRIPT = """#!/bin/sh
exec "$(dirname "$0")/python" -m pip "$@"
"""


class Interpreters:
    """Finds interpreters on this computer; *cache* keeps what is made once for all jobs."""

    def __init__(self, cache: Path, environment: Mapping[str, str]) -> None:
        self._cache = cache
        self._environment = dict(environment)
        self._found: dict[str, str] = {}
        self._lock = threading.Lock()

    def obtain(self, version: str, progress: ProgressSink) -> str:
        """Return the path of an interpreter of *version* (``3.11``), fetched by `uv` if need be.

        Raises `PythonUnavailable`, naming the versions that there are.
        """
        found = self.find(version)
        uv = self._which("uv")
        why = ""
        if found is None and uv is not None:
            progress("fetching", None, f"uv fetches Python {version}")
            why = self._fetch(uv, version, progress)
            found = self.find(version)
        if found is None:
            raise self.unavailable(version, why)
        return found

    def unavailable(self, version: str, why: str = "") -> PythonUnavailable:
        """Return the error that says what there is instead of *version*."""
        there = self.versions()
        because = f" ({why})" if why else ""
        fetch = "" if self.has_uv() else ", or install uv, which fetches others"
        return PythonUnavailable(
            f"there is no Python {version} on this computer{because}; there is {', '.join(there)}",
            hint=f"Leave `python` out to use {OWN_VERSION} with your own packages{fetch}.",
        )

    def versions(self) -> list[str]:
        """Return the versions that are on this computer, in order."""
        minors = range(_OLDEST_MINOR, _NEWEST_MINOR)
        return [name for name in (f"3.{minor}" for minor in minors) if self.find(name)]

    def has_uv(self) -> bool:
        """Tell whether `uv` is here, which fetches other versions."""
        return self._which("uv") is not None

    def find(self, version: str) -> str | None:
        """Return the path of an interpreter of *version* found here; None if there is none."""
        with self._lock:
            known = self._found.get(version)
            if known is not None and os.access(known, os.X_OK):
                return known
            for candidate in self._candidates(version):
                base = self._probe(candidate, version)
                if base is not None:
                    self._found[version] = base
                    return base
        return None

    def make_own(self, folder: Path) -> None:
        """Make an environment over the engine's interpreter, with all that is installed there."""
        sites = [path for path in sys.path if Path(path).name in _SITES and Path(path).is_dir()]
        pip = None if _has_pip(sites) else self.pip()
        calls = "; ".join(f"site.addsitedir({path!r})" for path in sites)
        lines = f"import site; {calls}\n"
        _make(folder, OWN_BASE, OWN_VERSION, lines + (f"{pip}\n" if pip else ""))

    def make_clean(self, folder: Path, version: str) -> None:
        """Make an environment over *version* that has nothing but pip."""
        base = self.find(version)
        if base is None:
            raise self.unavailable(version)
        pip = self.pip()
        _make(folder, base, version, f"{pip}\n" if pip else "")

    def pip(self) -> Path | None:
        """Return a folder that holds pip alone, made on first use; None where there is no pip."""
        target = self._cache / "pip"
        if (target / "pip").is_dir():
            return target
        making = self._cache / f".pip-{os.getpid()}-{threading.get_ident()}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        if not _unpack_pip(making):
            making.rmdir()
            return None
        try:
            making.rename(target)
        except OSError:  # somebody else was quicker
            shutil.rmtree(making, ignore_errors=True)
        return target

    def _candidates(self, version: str) -> Iterator[str]:
        name = f"python{version}"
        if version == OWN_VERSION:
            yield OWN_BASE
        on_path = self._which(name)
        if on_path is not None and "shims" not in Path(on_path).parts:
            yield on_path
        home = self._environment.get("HOME", "/root")
        pyenv = self._environment.get("PYENV_ROOT", f"{home}/.pyenv")
        data = self._environment.get("XDG_DATA_HOME", f"{home}/.local/share")
        uv = self._environment.get("UV_PYTHON_INSTALL_DIR", f"{data}/uv/python")
        for pattern in (f"{pyenv}/versions/{version}*", f"{uv}/cpython-{version}*"):
            for place in sorted(glob.glob(pattern), reverse=True):  # noqa: PTH207
                yield f"{place}/bin/{name}"

    def _probe(self, candidate: str, version: str) -> str | None:
        """Return the real interpreter behind *candidate* if it is of *version* and works."""
        if not os.access(candidate, os.X_OK):
            return None
        try:
            answer = subprocess.run(
                [candidate, "-I", "-S", "-c", _PROBE],
                capture_output=True,
                env=self._environment,
                timeout=_PROBE_SECONDS,
                text=True,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        lines = answer.stdout.splitlines()
        if answer.returncode or len(lines) != 2 or lines[0] != version:
            return None
        return lines[1]

    def _fetch(self, uv: str, version: str, progress: ProgressSink) -> str:
        """Let `uv` install *version*; return its last words when it could not."""
        last = ""
        process = subprocess.Popen(
            [uv, "python", "install", version],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            text=True,
        )
        killer = threading.Timer(_FETCH_SECONDS, process.kill)
        killer.start()
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                if line.strip():
                    last = line.strip()[:300]
                    progress("fetching", None, last)
        killer.cancel()
        return last if process.wait() else ""

    def _which(self, name: str) -> str | None:
        return shutil.which(name, path=self._environment.get("PATH", os.defpath))


_SITES = ("site-packages", "dist-packages")


def _make(folder: Path, base: str, version: str, pth: str) -> None:
    """Write the environment; repeatable."""
    site_packages = folder / "lib" / f"python{version}" / "site-packages"
    site_packages.mkdir(parents=True, exist_ok=True)
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (folder / "pyvenv.cfg").write_text(
        f"home = {Path(base).parent}\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    (site_packages / "_parent.pth").write_text(pth)
    for name in ("python", "python3", f"python{version}"):
        link = programs / name
        if not link.is_symlink():
            link.symlink_to(base if name == "python" else "python")
    for name in ("pip", "pip3"):
        script = programs / name
        script.write_text(_PIP_SCRIPT)
        script.chmod(0o755)


def _has_pip(sites: list[str]) -> bool:
    return any(Path(site, "pip", "__main__.py").is_file() for site in sites)


def _unpack_pip(target: Path) -> bool:
    """Put pip into *target*: from a wheel that came with Python, else from what is installed."""
    wheels = []
    ensurepip = importlib.util.find_spec("ensurepip")
    if ensurepip is not None and ensurepip.origin is not None:
        wheels += sorted(Path(ensurepip.origin).parent.glob("_bundled/pip-*.whl"))
    wheels += sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"))
    if wheels:
        with zipfile.ZipFile(wheels[-1]) as wheel:
            wheel.extractall(target)
        return True
    pip = importlib.util.find_spec("pip")
    if pip is None or pip.origin is None:
        return False
    package = Path(pip.origin).parent
    for place in (package, *package.parent.glob("pip-*.dist-info")):
        shutil.copytree(place, target / place.name)
    return True
