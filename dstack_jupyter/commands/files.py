"""`pull`: a run's results come to this computer; `validate`: are these files well written?"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from dstack_engine.errors import Refused
from dstack_engine.files.unpacking import unpack_tar
from dstack_engine.spec.validation import validate as validate_files
from dstack_jupyter.commands.call import Call
from dstack_jupyter.commands.views import bytes_text


def pull(call: Call) -> None:
    """Copy files of a run to the current folder, or to the last of several paths."""
    paths, target = _paths_and_target(call.arguments.paths)
    client, name = call.client(), call.run_name()
    written: list[Path] = []
    remarks: list[str] = []
    with call.surface.progress() as tell:
        for path in paths:
            received = 0

            def count(size: int, path: str = path) -> None:
                nonlocal received
                received += size
                tell(f"Copying {path}: {bytes_text(received)}", None)

            written += unpack_tar(
                client.read_files(name, path), target, on_remark=remarks.append, on_bytes=count
            )
    for remark in remarks:
        call.surface.write(f"{remark}\n")
    call.surface.write(_summary(written, target))


def _paths_and_target(words: Sequence[str]) -> tuple[Sequence[str], Path]:
    if len(words) == 1:
        return words, Path()
    return words[:-1], Path(words[-1]).expanduser()


def _summary(written: Sequence[Path], target: Path) -> str:
    if not written:
        return "There was nothing to copy.\n"
    size = bytes_text(sum(path.stat().st_size for path in written if path.is_file()))
    if len(written) == 1:
        return f"{written[0]} ({size})\n"
    return f"{len(written)} files to {target} ({size})\n"


def validate(call: Call) -> int | None:
    """Say of each file whether it is well written; an error if any is not."""
    text = io.StringIO()
    status = validate_files(call.arguments.files, call.arguments.json, sys.stdin, text)
    call.surface.write(text.getvalue())
    if call.surface.is_program:
        return status
    if status != 0:
        raise Refused("Not every file is well written.")
    return None
