"""From a cell with `-y` to the first line of its output, on both hosts.

Three ways of ours (a cell in a real kernel, the magic in an IPython shell, the client alone) beside
the bare tool: `docker run --rm` of the same image, or `bash -c`. Run by `make bench`.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from benchmarks import ground
from benchmarks.table import Line, medians, print_table
from dstack_engine.client import Client
from dstack_engine.records.offers import OfferId

SAID = "the first line"
SCRIPT = f"echo '{SAID}'"
CELL = "%%dstack task -y{options} --name {name} --instance-type {kind}\ncommands:\n  - " + SCRIPT

#: What ours may take longer than `docker run`, or in all on the process host; seconds.
BAR = 0.25


def client_alone(client: Client, offer: OfferId) -> float:
    """Measure a program that submits by the client, with the event stream open."""
    name = ground.new_name("first")
    listener = ground.Listener(client, name)
    begun = perf_counter()
    ground.submit(client, offer, name, [SCRIPT])
    arrived, _ = next(listener.output())
    ground.await_end(client, name)
    return arrived - begun


class Watched(io.TextIOWrapper):
    """A standard output that notes when the first line came."""

    def __init__(self) -> None:
        super().__init__(Noting(), write_through=True)

    @property
    def noted(self) -> float:
        """Return when it came."""
        noting = self.buffer
        assert isinstance(noting, Noting)
        assert noting.noted is not None, "the first line never came"
        return noting.noted


class Noting(io.BytesIO):
    """Bytes, looked through as they are written."""

    noted: float | None = None

    def write(self, data: object, /) -> int:
        """Look for the line."""
        if self.noted is None and SAID.encode() in bytes(data):  # type: ignore[call-overload]
            self.noted = perf_counter()
        return super().write(data)  # type: ignore[arg-type]


def in_shell(shell: InteractiveShell, offer: OfferId) -> float:
    """Measure `--wait` in IPython, whose standard output gets the line."""
    output, before = Watched(), (sys.stdout, sys.stderr)
    cell = _cell(offer, " --wait")
    begun = perf_counter()
    sys.stdout, sys.stderr = output, io.StringIO()
    try:
        shell.run_cell(cell).raise_error()
    finally:
        sys.stdout, sys.stderr = before
    return output.noted - begun


def in_kernel(kernel: BlockingKernelClient, client: Client, offer: OfferId) -> float:
    """Measure a cell of a notebook, whose card gets the line in a message from the kernel."""
    name = ground.new_name("first")
    begun = perf_counter()
    kernel.execute(_cell(offer, "", name))
    while True:
        message = kernel.get_iopub_msg(timeout=30)
        if message["msg_type"] == "comm_msg" and _holds_line(message):
            arrived = perf_counter()
            break
    ground.await_end(client, name)
    kernel.execute("")
    while kernel.get_iopub_msg(timeout=30)["content"].get("code") != "":
        pass
    return arrived - begun


def _holds_line(message: dict[str, object]) -> bool:
    """Tell whether the card was told the line: as text, or as bytes beside the message."""
    buffers = message.get("buffers") or []
    assert isinstance(buffers, list)
    return SAID in str(message["content"]) or any(SAID.encode() in bytes(b) for b in buffers)


def _cell(offer: OfferId, options: str, name: str | None = None) -> str:
    kind = offer.partition("/")[2]
    return CELL.format(options=options, name=name or ground.new_name("first"), kind=kind)


@contextmanager
def project() -> Iterator[None]:
    """A small project as the current folder: its files travel with every run."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number in range(10):
            Path(f"module_{number}.py").write_text(f"VALUE = {number}\n" * 100)
        try:
            yield
        finally:
            os.chdir(before)


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with ground.engine() as client, project():
        shell = InteractiveShell.instance()
        shell.run_line_magic("load_ext", "dstack_jupyter")
        manager, kernel = start_new_kernel(extra_arguments=["--IPKernelApp.log_level=ERROR"])
        try:
            kernel.execute_interactive("%load_ext dstack_jupyter", timeout=30)
            for offer, called in ground.hosts():
                yield from _measure_host(client, shell, kernel, offer, called)
        finally:
            kernel.stop_channels()
            manager.shutdown_kernel(now=True)


def _measure_host(
    client: Client,
    shell: InteractiveShell,
    kernel: BlockingKernelClient,
    offer: OfferId,
    called: str,
) -> Iterator[Line]:
    bare_command = ground.bare(offer, SCRIPT)
    ways: dict[str, Callable[[], float]] = {
        "a cell in a kernel": lambda: in_kernel(kernel, client, offer),
        "the magic in IPython": lambda: in_shell(shell, offer),
        "the client alone": lambda: client_alone(client, offer),
    }
    *ours, peer = medians(*ways.values(), lambda: ground.time_first_line(bare_command))
    for way, seconds in zip(ways, ours, strict=True):
        docker = offer == ground.DOCKER
        yield Line(
            f"-y to first line, {called}, {way}",
            seconds * 1000,
            "ms",
            bar=f"≤ {BAR * 1000:.0f} ms " + ("more" if docker else "in all"),
            kept=seconds - (peer if docker else 0) <= BAR,
            peer=peer * 1000,
            peer_name="docker run" if docker else "bash -c",
        )


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
