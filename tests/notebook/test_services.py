"""Services from cells in real kernels, on plain processes: run, asked, updated, stopped."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dstack_engine.home import Home
from dstack_engine.launcher import connect
from tests.notebook.kernels import Notebook
from tests.notebook.test_cli import run

SERVICE = "%%dstack service --instance-type process --no-files"
PAGES = """
commands:
  - mkdir -p page
  - echo {text} > page/index.html
  - {python} -u -m http.server --directory page --bind 127.0.0.1 $DSTACK_SERVICE_PORT
port: 8000
"""
ASK = """
import urllib.request, dstack_jupyter
def ask(service):
    headers = {"Authorization": f"Bearer {dstack_jupyter.token()}"}
    return urllib.request.urlopen(urllib.request.Request(service.path_url, headers=headers)).read()
"""

#: A model that says back what it was asked, word by word; `forever` makes it go on without an end.
MODEL = """
import itertools, json, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Echo(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last = asked["messages"][-1]["content"]
        words = itertools.repeat("and") if last == "forever" else last.split()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self.say({"delta": {"content": f"{len(asked['messages'])}:"}})
            for word in words:
                self.say({"delta": {"content": f" {word}"}})
                time.sleep(0.01)
            self.say({"delta": {}, "finish_reason": "stop"})
            self.wfile.write(b"data: [DONE]\\n\\n")
        except OSError:
            print("the asker went away", flush=True)

    def say(self, choice):
        chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}
        self.wfile.write(f"data: {json.dumps(chunk)}\\n\\n".encode())
        self.wfile.flush()

ThreadingHTTPServer(("127.0.0.1", int(os.environ["DSTACK_SERVICE_PORT"])), Echo).serve_forever()
"""


def pages(text: str, more: str = "") -> str:
    """Return a service that shows *text*."""
    return PAGES.format(text=text, python=sys.executable) + more


def token() -> str:
    """Return the token of the test's own home."""
    with connect(Home.of_user()) as client:
        return client.token()


@pytest.fixture
def echo(project: Path) -> str:
    """A service's body that serves the model `echo`."""
    (project / "echo_model.py").write_text(MODEL)
    script = project / "echo_model.py"
    return (
        f"commands:\n  - {sys.executable} -u {script} $DSTACK_SERVICE_PORT\n"
        "port: 8000\nmodel: echo\n"
    )


def test_a_service_is_waited_for_asked_listed_attached_and_stopped(notebook: Notebook) -> None:
    cell = notebook.run(f"{SERVICE} -n web -y --wait -o web{pages('moin', 'replicas: 2')}")
    assert cell.status == "ok", cell.error_text
    assert re.search("[12] of 2 replicas are ready", cell.text), "the copy knows what came of it"
    assert "http://web.localhost:" in cell.html
    assert notebook.run(f"{ASK}\nask(web)").text == "b'moin\\n'"
    counted = "while web.report.requests < 1: pass"
    assert notebook.run(counted).status == "ok"
    listed = notebook.run("%dstack ps").text
    assert re.search("[12]/2", listed)
    assert "http://web.localhost:" in listed
    assert "Serving HTTP" in notebook.run("%dstack logs web --replica 1").stdout
    assert "Serving HTTP" in notebook.run("web.logs(replica=0)").text
    notebook.run("while not all(str(one.state) == 'ready' for one in web.report.replicas): pass")
    attached = notebook.run("%dstack attach web")
    assert "2 of 2 replicas are ready" in attached.text
    assert "● web  ready" in notebook.run("web").text
    assert "run" in notebook.run("%dstack events web").text

    assert notebook.run("dstack_jupyter.token()").text.startswith("<token: hidden")
    refused = notebook.run("%dstack token")
    assert (refused.status, refused.error) == ("error", "Refused")
    notebook.run("%dstack stop web")
    assert notebook.run("str(web.wait(60))").text == "'terminated'"
    frozen = "import gc\nwhile not all(card.is_frozen for card in gc.get_objects() if "
    notebook.run(f"{frozen}type(card).__name__ == 'ServiceCard'): pass\n")
    notebook.run("import time; time.sleep(0.5)")
    assert "web was stopped by its user." in cell.text
    assert "application/vnd.jupyter.widget-view+json" not in cell.views[0]
    everything = str(notebook.cells)
    assert token() not in everything


def test_a_service_that_only_fails_is_not_waited_for_in_vain(notebook: Notebook) -> None:
    cell = notebook.run(
        f"{SERVICE} -n broken -y --wait\n"
        "commands: [echo so far, 'exit 3', 'echo $DSTACK_SERVICE_PORT']\nport: 8000"
    )
    assert (cell.status, cell.error) == ("error", "ServiceNotReady")
    assert cell.error_text.startswith(
        "ServiceNotReady: broken does not get ready: replica 0 ended with an error (exit code 3)."
    )
    assert "  | so far" in cell.error_text
    assert "failing" in notebook.run("%dstack attach broken").text
    notebook.run("%dstack stop broken -x")


def test_a_second_cell_of_that_name_updates_the_service(notebook: Notebook) -> None:
    notebook.run(f"{SERVICE} -n web -y --wait -o web{pages('one')}")
    choice = notebook.run(f"{SERVICE} -n web{pages('two')}")
    assert "updates the running service web: one replica at a time" in choice.text
    cell = notebook.run(f"{SERVICE} -n web -y --wait -o web{pages('two')}")
    assert cell.status == "ok", cell.error_text
    assert cell.stdout == "Updating the running service web: one replica at a time.\n"
    assert notebook.run(f"{ASK}\nask(web)").text == "b'two\\n'"
    again = notebook.run(f"{SERVICE} -n web -y --wait{pages('two')}")
    assert "stays as it is" in again.stdout


def test_a_sleeping_service_counts_as_ready_and_wakes_at_the_first_request(
    notebook: Notebook,
) -> None:
    more = "replicas: 0..1\nscaling: {metric: rps, target: 1}"
    cell = notebook.run(f"{SERVICE} -n sleeper -y --wait -o sleeper{pages('awake', more)}")
    assert cell.status == "ok", cell.error_text
    assert "asleep" in cell.text
    asked = notebook.run(f"{ASK}\nask(sleeper)")
    assert asked.text == "b'awake\\n'", asked.error_text
    assert "1/1" in notebook.run("%dstack ps").text


def test_a_model_is_listed_and_talked_to_from_cells_and_code(notebook: Notebook, echo: str) -> None:
    cell = notebook.run(f"{SERVICE} -n parrot -y --wait -o parrot\n{echo}")
    assert cell.status == "ok", cell.error_text
    assert "model echo (OpenAI)" in cell.text
    answer = notebook.run(
        "%%dstack chat echo -o answer --system brief --max-tokens 9\nHi <b>you</b>"
    )
    assert answer.text == "2: Hi <b>you</b>", "and not a second time as the cell's value"
    assert "&lt;b&gt;" in answer.html
    assert notebook.run("_ == answer, answer").text == "(True, '2: Hi <b>you</b>')"
    more = notebook.run("%dstack chat echo --continue once more")
    assert more.text == "4: once more"
    assert notebook.run("%dstack chat echo afresh").text == "1: afresh"

    unknown = notebook.run("%dstack chat ecco hello")
    assert unknown.status == "error"
    assert "echo" in unknown.error_text
    wrong = notebook.run("%dstack chat echo --temperature warm hello")
    assert "--temperature takes a number" in wrong.error_text
    told = notebook.run(
        "import dstack_jupyter\nclient = dstack_jupyter.openai()\n"
        "asked = [{'role': 'user', 'content': 'by code'}]\n"
        "stream = client.chat.completions.create(model='echo', messages=asked, stream=True)\n"
        "''.join(piece.choices[0].delta.content or '' for piece in stream), client"
    )
    assert told.text.startswith("('1: by code', <openai.OpenAI ")
    assert notebook.run("parrot.openai().models.list().data[0].id").text == "'echo'"
    row = next(
        line for line in notebook.run("%dstack models").text.splitlines() if "parrot" in line
    )
    assert row.split()[:3] == ["echo", "parrot", "1"]


def test_an_interrupt_stops_the_model_and_keeps_what_it_said(notebook: Notebook, echo: str) -> None:
    notebook.run(f"{SERVICE} -n parrot -y --wait -o parrot\n{echo}")
    cell, message = notebook.start("%%dstack chat echo\nforever")
    while "and and" not in cell.text:
        notebook.take(cell, notebook.client.get_iopub_msg(timeout=60))
    notebook.manager.interrupt_kernel()
    notebook.finish(cell, message)
    assert (cell.status, cell.error) == ("error", "Detached")
    assert cell.text.startswith("1: and and")
    gone = "while 'the asker went away' not in parrot.logs(): pass"
    assert notebook.run(gone).status == "ok"


def test_the_program_does_the_same(project: Path, echo: str) -> None:
    body = f"type: service\nname: parrot\n{echo}"
    ready = run(
        project,
        *("apply", "-f", "-", "-y", "--wait", "--no-files", "--instance-type", "process"),
        text=body,
    )
    assert ready.returncode == 0, ready.stderr
    assert "parrot: ready · 1 of 1 replica is ready" in ready.stderr
    assert "http://parrot.localhost:" in ready.stderr
    assert "parrot" in run(project, "models").stdout
    assert run(project, "chat", "echo", "as", "words").stdout == "1: as words\n"
    assert run(project, "chat", "echo", text="by standard input\n").stdout == (
        "1: by standard input\n"
    )
    assert run(project, "chat", "echo", text="").returncode == 2
    printed = run(project, "token").stdout
    assert printed == f"{token()}\n"
    asked = subprocess.run(
        [sys.executable, "-c", "import dstack_jupyter; print(dstack_jupyter.openai())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "<openai.OpenAI object" in asked.stdout
    assert "1/1" in run(project, "ps").stdout
    assert "parrot is aborted" in run(project, "stop", "parrot", "-x", "-y").stdout
