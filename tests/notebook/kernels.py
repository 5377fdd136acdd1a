"""Real kernels for tests: cells go in, what a person would see comes out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

#: On a busy machine a kernel may take this long to answer, in seconds.
PATIENCE = 60.0


@dataclass
class Cell:
    """What a cell showed."""

    status: str = "running"
    stdout: str = ""
    stderr: str = ""
    error: str | None = None
    error_text: str = ""
    views: list[dict[str, Any]] = field(default_factory=list)
    by_id: dict[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The plain text of everything displayed, as it is now."""
        return "\n".join(view.get("text/plain", "") for view in self.views)

    @property
    def html(self) -> str:
        """The HTML of everything displayed, as it is now."""
        return "\n".join(view.get("text/html", "") for view in self.views)


class Notebook:
    """One kernel and the cells that were run in it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self.cells: list[Cell] = []

    def start(self, source: str) -> tuple[Cell, str]:
        """Send a cell; return it with its message's id, to be finished by `finish`."""
        cell = Cell()
        self.cells.append(cell)
        return cell, self.client.execute(source, allow_stdin=False, store_history=True)

    def run(self, source: str) -> Cell:
        """Run a cell to its end."""
        cell, message_id = self.start(source)
        return self.finish(cell, message_id)

    def finish(self, cell: Cell, message_id: str) -> Cell:
        """Read what the kernel says until the cell is done."""
        until = monotonic() + PATIENCE
        while monotonic() < until:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            self.take(cell, message)
            ours = message["parent_header"].get("msg_id") == message_id
            if ours and message["content"].get("execution_state") == "idle":
                cell.status = self._status(message_id)
                return cell
        raise TimeoutError("the cell did not end")

    def _status(self, message_id: str) -> str:
        while True:
            reply = self.client.get_shell_msg(timeout=PATIENCE)
            if reply["parent_header"].get("msg_id") == message_id:
                return str(reply["content"]["status"])

    def take(self, cell: Cell, message: dict[str, Any]) -> None:
        """Add one message of the kernel's to what is seen."""
        content, kind = message["content"], message["msg_type"]
        if kind == "stream":
            setattr(cell, content["name"], getattr(cell, content["name"]) + content["text"])
        elif kind == "error":
            cell.error, cell.error_text = content["ename"], "\n".join(content["traceback"])
        elif kind in ("display_data", "execute_result"):
            identity = content.get("transient", {}).get("display_id")
            if identity:
                cell.by_id[identity] = len(cell.views)
            cell.views.append(content["data"])
        elif kind == "update_display_data":
            for one in self.cells:
                at = one.by_id.get(content["transient"]["display_id"])
                if at is not None:
                    one.views[at] = content["data"]


@contextmanager
def kernel(folder: Path) -> Iterator[Notebook]:
    """Give a notebook in *folder* with a kernel of its own, the extension loaded."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        notebook = Notebook(manager, client)
        loaded = notebook.run("%load_ext dstack_jupyter")
        assert loaded.status == "ok", loaded.error_text
        yield notebook
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
