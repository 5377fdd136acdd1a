"""A crowd that asks a service without pause, and the small program that answers it.

Every request must be answered with 200 and in full, every stream must bring all its lines; what
was not is kept as a failure with its facts.
"""

from __future__ import annotations

import http.client
import json
import textwrap
import threading
from dataclasses import dataclass, field

from dstack_engine.records.offers import OfferId
from dstack_engine.records.publication import ReplicaState
from dstack_engine.records.runs import RunView
from dstack_engine.spec.configurations import Runnable
from dstack_engine.spec.parsing import configuration_from_dict
from tests.journeys.engines import PROCESS, until
from tests.journeys.visitors import PATIENCE, Visitors

#: The replica: `/` says who answers, `/stream?N` brings N lines, one in 0.05 s, `/exit` ends it.
#: It ends at once when it is told to, in the middle of whatever it says.
PROGRAM = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Replica(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/exit":
            print("told to exit", flush=True)
            os._exit(3)
        if path == "/stream":
            return self.stream(int(query))
        said = {"job": os.environ["DSTACK_JOB_ID"], "version": os.environ.get("VERSION", "1")}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def stream(self, lines):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(lines):
            data = b"data: %d\\n\\n" % number
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(data), data))
            time.sleep(0.05)
        self.wfile.write(b"0\\r\\n\\r\\n")
    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

time.sleep(float(os.environ.get("START_TIME", "0")))
print("listens", flush=True)
host = os.environ.get("LISTEN", "127.0.0.1")
Server((host, int(os.environ["DSTACK_SERVICE_PORT"])), Replica).serve_forever()
"""


def a_service(name: str = "web", *, docker: bool = False, **written: object) -> Runnable:
    """Return a service of `PROGRAM`; each replica says the variable VERSION of its environment."""
    env = {"LISTEN": "0.0.0.0" if docker else "127.0.0.1"}
    env.update(written.pop("env", {}))  # type: ignore[call-overload]  # a mapping, as tests give it
    whole = {
        "type": "service",
        "name": name,
        "commands": [
            f"cat > replica.py <<'EOF'\n{textwrap.dedent(PROGRAM)}\nEOF",
            "exec python3 replica.py",
        ],
        "port": 8000,
        "env": env,
        **written,
    }
    return configuration_from_dict(whole)  # type: ignore[return-value]  # a service is runnable


@dataclass(frozen=True)
class Asker(Visitors):
    """Whoever asks services of `PROGRAM`, on one host of one engine."""

    offer: OfferId = PROCESS

    def serve(self, **written: object) -> RunView:
        """Submit the service, or renew it."""
        wanted = a_service(docker=self.offer != PROCESS, **written)  # type: ignore[arg-type]
        return self.engine.client.submit(wanted, offers=[self.offer])

    def until_served_by(self, *jobs: str) -> None:
        """Return once exactly these jobs are given requests, and no other is known."""

        def ready() -> bool:
            report = self.report("web")
            states = report.replicas if report is not None else ()
            known = {one.job for one in states}
            return known == set(jobs) and all(one.state is ReplicaState.READY for one in states)

        until(ready, f"{jobs} to be ready", lambda: self.facts("web"))

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to the gateway."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)


@dataclass
class Crowd:
    """Visitors who ask all the while: use as a context manager."""

    asker: Visitors
    askers: int = 4
    streams: int = 2
    #: Lines of a stream; it lasts a twentieth of so many seconds.
    lines: int = 40
    answers: list[dict[str, str]] = field(default_factory=list)
    streamed: int = 0
    failures: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Crowd:
        """Begin."""
        # What is needed of the engine is asked now: it may be away later.
        self._port, self._headers = self.asker.port, self.asker.authorization
        todo = [self._ask] * self.askers + [self._stream] * self.streams
        self._threads = [threading.Thread(target=self._go_on, args=(one,)) for one in todo]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let every request and stream come to its end."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def versions(self) -> set[str]:
        """Versions of the replicas that have answered."""
        with self._lock:
            return {answer["version"] for answer in self.answers}

    def until_answered(self, more: int = 50, streams: int = 0) -> None:
        """Return once so many more requests and streams were answered."""
        answers, streamed = len(self.answers) + more, self.streamed + streams

        def answered() -> bool:
            return len(self.answers) >= answers and self.streamed >= streamed

        until(answered, f"{more} answers, {streams} streams", lambda: self.failures[:5])

    def _go_on(self, act: object) -> None:
        assert callable(act)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._over.is_set():
            try:
                act(connection)
            except (OSError, http.client.HTTPException) as error:
                self._fail(f"{type(error).__name__}: {error}")
                connection.close()
            self._over.wait(0.005)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", "/services/web/", headers=self._headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            return self._fail(f"{answer.status}: {body[:300]!r}")
        with self._lock:
            self.answers.append(json.loads(body))
        return None

    def _stream(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", f"/services/web/stream?{self.lines}", headers=self._headers)
        answer = connection.getresponse()
        body = answer.read()
        lines = body.count(b"data: ")
        if answer.status != 200 or lines != self.lines:
            return self._fail(f"a stream: {answer.status}, {lines} of {self.lines} lines")
        with self._lock:
            self.streamed += 1
        return None

    def _fail(self, why: str) -> None:
        with self._lock:
            self.failures.append(why)
