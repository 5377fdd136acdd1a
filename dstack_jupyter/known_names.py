"""Names that Tab offers beside the language's own words: runs, models, fleets, regions, profiles.

Each is remembered for a while and asked anew in a thread, which is waited for `PATIENCE` at most:
a slow engine makes Tab know less, never wait. An engine is never started for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic

from dstack_engine.errors import DstackError
from dstack_engine.records.offers import Offer
from dstack_engine.spec.files import DEFAULT_NAMES, PROFILE_NAMES, load_profiles
from dstack_engine.spec.gpu_names import GPU_NAMES
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_jupyter.session import session

#: The longest that a completion waits for names, and how long they are remembered; seconds.
PATIENCE = 0.03
MEMORY = 2.0
#: What is offered changes less often, and is dearer to ask.
MEMORY_OF_OFFERS = 60.0
#: So much of a folder is looked through for configurations.
MOST_FILES = 1000

_NEVER = object()


@dataclass
class Names:
    """The names of one kind of thing, as they were a moment ago."""

    fetch: Callable[[], list[str]]
    memory: float = MEMORY
    #: Another value than before says that the names are old, however short their time.
    stamp: Callable[[], object] = lambda: None
    #: What is offered until something was fetched.
    at_first: Sequence[str] = ()
    _known: Sequence[str] = ()
    _until: float = 0.0
    _stamped: object = _NEVER
    _fetching: threading.Thread | None = None

    def recall(self) -> Sequence[str]:
        """Return the names, asked anew if they are old; waits `PATIENCE` at most."""
        stamp = self.stamp()
        if monotonic() >= self._until or stamp != self._stamped:
            if self._fetching is None or not self._fetching.is_alive():
                self._fetching = threading.Thread(target=self._renew, args=[stamp], daemon=True)
                self._fetching.start()
            self._fetching.join(PATIENCE)
        return self._known if self._stamped is not _NEVER else self.at_first

    def _renew(self, stamp: object) -> None:
        try:
            self._known = self.fetch()
        except (DstackError, OSError):
            self._known = []  # no engine, no names; Tab never starts one
        self._stamped, self._until = stamp, monotonic() + self.memory


def _run_names() -> list[str]:
    return [view.name for view in session().client(start=False).runs(everything=True)]


def _model_names() -> list[str]:
    return [model.name for model in session().client(start=False).models()]


def _offers() -> list[Offer]:
    """Return all that is offered at present, also what would be too small."""
    anything = configuration_from_dict({"type": "task", "commands": [":"]})
    plan = session().client(start=False).plan(anything)  # type: ignore[arg-type]  # a task is
    return [*plan.offers, *(refusal.offer for refusal in plan.refusals)]


def _regions() -> list[str]:
    return sorted({offer.region for offer in _offers()})


def _instance_types() -> list[str]:
    return sorted({offer.instance_type for offer in _offers()})


def _fleet_names() -> list[str]:
    return [view.fleet.name for view in session().client(start=False).fleets()]


def _hosts() -> list[str]:
    """Return the machines of all fleets, as `ssh_config` names them."""
    views = session().client(start=False).fleets()
    found = [one.ssh.hostname for view in views for one in view.instances if one.ssh is not None]
    return sorted(dict.fromkeys(found))


def _gpu_names() -> list[str]:
    try:
        offered = {gpu.name for offer in _offers() for gpu in offer.shape.gpus}
    except DstackError:
        offered = set()
    return [*sorted(offered), *(name for name in GPU_NAMES if name not in offered)]


def _profile_names() -> list[str]:
    return [profile.name for profile in load_profiles(Path.cwd(), Path.home()).profiles]


def _profile_files() -> object:
    """Return what changes whenever a file of profiles does."""
    found = []
    for folder in (Path.cwd(), Path.home()):
        for name in PROFILE_NAMES:
            try:
                status = (folder / name).stat()
            except OSError:
                continue
            found.append((folder / name, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _configuration_files() -> list[str]:
    entries = islice(Path.cwd().iterdir(), MOST_FILES)
    return sorted(entry.name for entry in entries if entry.name.endswith(DEFAULT_NAMES))


def files_beginning(written: str) -> list[str]:
    """Return the paths below the project that begin with *written*; folders end in `/`."""
    above, slash, name = written.rpartition("/")
    if written.startswith(("/", "~")) or ".." in above.split("/"):
        return []
    try:
        with os.scandir(Path.cwd() / above) as entries:
            found = [entry for entry in islice(entries, MOST_FILES) if entry.name.startswith(name)]
    except (OSError, ValueError):
        return []
    return sorted(
        f"{above}{slash}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in found
        if name.startswith(".") or not entry.name.startswith(".")
    )


RUNS = Names(_run_names)
MODELS = Names(_model_names)
REGIONS = Names(_regions, MEMORY_OF_OFFERS)
INSTANCE_TYPES = Names(_instance_types, MEMORY_OF_OFFERS)
GPUS = Names(_gpu_names, MEMORY_OF_OFFERS, at_first=GPU_NAMES)
FLEETS = Names(_fleet_names)
HOSTS = Names(_hosts)
PROFILES = Names(_profile_names, MEMORY_OF_OFFERS, _profile_files)
FILES = Names(_configuration_files)
