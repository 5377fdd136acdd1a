"""The environment of a process-host job: what passes from the engine's, and what the host adds.

Used by the process host. A job must not depend on which notebook's kernel happened to start the
engine, nor see its secrets, so only what describes this computer passes, like a container's own
environment would. Anything else is asked for by ``env:``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dstack_engine.hosts.base import ContainerSpec
from dstack_engine.hosts.descendants import JOB_VARIABLE
from dstack_engine.hosts.job_folder import JobFolder

#: Names of variables that pass from the engine to jobs.
PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|HOSTNAME"
    r"|LD_LIBRARY_PATH|CUDA_HOME|CUDA_PATH|XDG_\w+|PYENV_ROOT|CONDA_\w+|UV_\w+|PIP_\w+"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_EXTRA_CA_CERTS"
    r"|(?i:http_proxy|https_proxy|ftp_proxy|all_proxy|no_proxy)"
)
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GPU_DEVICES = Path("/proc/driver/nvidia/gpus")


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the engine's environment that jobs see."""
    passed = {name: value for name, value in environ.items() if PASSED.fullmatch(name)}
    passed.setdefault("PATH", _DEFAULT_PATH)
    passed.setdefault("HOME", str(Path.home()))
    return passed


def job_environment(
    base: Mapping[str, str], spec: ContainerSpec, folder: JobFolder, programs: tuple[str, ...]
) -> dict[str, str]:
    """Return the whole environment of a job; *programs* are folders that its PATH begins with.

    The author's values beat the base's. The host has the last word on where the project lies and
    on GPUs: a job sees those assigned to it, and none when it asked for none.
    """
    environment = {**base, **spec.environment}
    environment["PATH"] = ":".join((*programs, environment["PATH"]))
    environment["VIRTUAL_ENV"] = folder.python
    environment[JOB_VARIABLE] = folder.path
    for name, place in (
        ("DSTACK_REPO_DIR", folder.workflow),
        ("DSTACK_WORKING_DIR", str(Path(folder.workflow, spec.working_dir))),
    ):
        if name in environment:
            environment[name] = place
    if spec.limits.gpus or _GPU_DEVICES.is_dir():
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(spec.limits.gpus)
    return environment
