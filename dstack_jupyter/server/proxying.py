"""Ports of tasks, services and models under Jupyter's own login, wherever the browser is.

`/dstack-jupyter/ports/<run>/<port>/…` is a task's port, `…/services/<run>/…` a service and
`…/models/v1/…` the models, both with the user's token put in here. What is reached so is a program
of the user's, and its pages are in Jupyter's own origin: they are trusted as a notebook is.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timezone
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import iostream, web
from tornado.escape import xhtml_escape
from tornado.http1connection import HTTP1Connection

from dstack_engine.client import Client
from dstack_engine.errors import Conflict, DstackError, NotFound, Refused
from dstack_engine.gateway.chunks import BadBody
from dstack_engine.gateway.headers import AnswerHead, BadHead
from dstack_engine.gateway.router import climbs
from dstack_engine.gateway.upstream import Cut
from dstack_jupyter.replicas import is_service
from dstack_jupyter.server.asking import AUTH_RESOURCE, in_thread, refusal, status_of
from dstack_jupyter.server.heads import (
    Destination,
    answer_pairs,
    head_for,
    is_foreign,
    wants_upgrade,
    without_token,
)
from dstack_jupyter.server.passing import Passage, open_passage
from dstack_jupyter.server.rows import NAMESPACE
from dstack_jupyter.session import session

#: The largest body that a browser may send to a program, in bytes: it is not kept here.
MAX_UPLOAD = 1 << 50


class Unreached(DstackError):
    """A program behind Jupyter that does not answer."""

    code = "unreached"
    http_status = 502


@web.stream_request_body
class ProxyHandler(JupyterHandler):
    """Passes a request on and its answer back. Who may, is looked at before a byte is passed."""

    auth_resource = AUTH_RESOURCE
    _passage: Passage | None = None
    _answering: asyncio.Task[None] | None = None
    _destination: Destination

    async def prepare(self) -> None:  # type: ignore[override]
        """Look at who asks, find the place, and begin to pass the request on."""
        await super().prepare()
        admitted = None if self._finished else self._admit()
        if admitted is None:
            return  # sent to the login
        await admitted
        pairs = list(self.request.headers.get_all())
        if self._is_foreign(pairs):
            raise web.HTTPError(403, "Another site's page may not ask this.")
        self.settings["api_last_activity"] = datetime.now(timezone.utc)
        place = await self._find()
        if place is None:
            return  # sent to where the program begins
        self._destination = place
        self._take_any_size()
        self._passage = await self._open(place, pairs)
        if not wants_upgrade(pairs):
            self._answering = asyncio.ensure_future(self._answer(self._passage))
            self._answering.add_done_callback(_looked_at)

    async def _find(self) -> Destination | None:
        """Return where the request goes; None once the browser was sent elsewhere."""
        raise NotImplementedError

    def _take_any_size(self) -> None:
        connection = self.request.connection
        if isinstance(connection, HTTP1Connection):
            connection.set_max_body_size(MAX_UPLOAD)

    @web.authenticated
    @authorized("execute")  # type: ignore[untyped-decorator]
    async def _admit(self) -> None:
        """Return for those who may; to reach a program is to execute something."""

    def check_xsrf_cookie(self) -> None:
        """Ask for no word of Jupyter's page: programs do not know it. See `is_foreign`."""

    def get_login_url(self) -> str:
        """Return where to log in, for what a person opens; raise 403 for what a program asks."""
        opened = "text/html" in self.request.headers.get("Accept", "")
        if not opened or wants_upgrade(self.request.headers.get_all()):
            raise web.HTTPError(403)
        return super().get_login_url()

    def _is_foreign(self, pairs: list[tuple[str, str]]) -> bool:
        method = self.request.method or "GET"
        if not is_foreign(method, pairs, upgrade=wants_upgrade(pairs)):
            return False
        # An administrator may have named other sites; and no site knows the token.
        return not ("Origin" in self.request.headers and self.check_origin())

    async def _open(self, place: Destination, pairs: list[tuple[str, str]]) -> Passage:
        request = self.request
        try:
            head = head_for(
                place,
                request.method or "GET",
                pairs,
                remote=request.remote_ip or "",
                scheme=request.protocol,
            )
            return await open_passage(place.address, head, place.target, place.prefix)
        except BadHead as error:
            raise web.HTTPError(400, str(error)) from error
        except (OSError, Cut) as error:
            raise Unreached(
                "Nothing answers there.",
                hint="The program may not have begun to listen yet; its output tells.",
            ) from error

    async def data_received(self, chunk: bytes) -> None:
        """Pass on more of the body."""
        if self._passage is not None:
            await self._passage.upload(chunk)

    async def _pass(self, *_: str) -> None:
        """Pass on the end of the request; return when the answer has been passed back."""
        if self._passage is None:
            return
        await self._passage.end_upload()
        if self._answering is None:
            await self._upgrade(self._passage)
        else:
            await self._answering

    get = web.authenticated(authorized("execute")(_pass))
    head = web.authenticated(authorized("execute")(_pass))
    post = web.authenticated(authorized("execute")(_pass))
    put = web.authenticated(authorized("execute")(_pass))
    patch = web.authenticated(authorized("execute")(_pass))
    delete = web.authenticated(authorized("execute")(_pass))
    options = web.authenticated(authorized("execute")(_pass))

    async def _answer(self, passage: Passage) -> None:
        """Pass the answer back, as it comes."""
        head = await self._head(passage)
        self._begin_answer(head)
        try:
            await self.flush()
            async for data in passage.pieces():
                self.write(data)
                await self.flush()
        except iostream.StreamClosedError:
            passage.abort()
        except (Cut, BadBody):
            self.detach().close()  # so that it is no end, but a break, to who reads
        else:
            self.finish()

    async def _head(self, passage: Passage) -> AnswerHead:
        try:
            return await passage.head()
        except (Cut, BadHead, BadBody) as error:
            raise Unreached(f"The program gave no answer: {error}.") from error

    def _begin_answer(self, head: AnswerHead) -> None:
        policy = self._headers.get("Content-Security-Policy")
        for name in [*self._headers]:
            self.clear_header(name)
        self.set_status(head.status, head.reason.decode("latin-1"))
        for name, value in self._answer_pairs(head):
            self.add_header(name, value)
        if "Content-Security-Policy" not in self._headers and policy:
            self.set_header("Content-Security-Policy", policy)  # no other site's frame
        bodiless = self.request.method == "HEAD" or head.status in (204, 304)
        if head.length is not None and not bodiless:
            self.set_header("Content-Length", str(head.length))

    def _answer_pairs(self, head: AnswerHead) -> list[tuple[str, str]]:
        return answer_pairs(self._destination, head, self.request.host)

    async def _upgrade(self, passage: Passage) -> None:
        """Become a tunnel if the program agrees; else pass its answer back."""
        head = await self._head(passage)
        if head.status != 101:
            await self._answer(passage)
            return
        stream = self.detach()
        lines = [f"HTTP/1.1 101 {head.reason.decode('latin-1') or 'Switching Protocols'}"]
        lines += ["Connection: Upgrade", f"Upgrade: {head.upgrade.decode('latin-1')}"]
        lines += [f"{name}: {value}" for name, value in self._answer_pairs(head)]
        try:
            await stream.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        except iostream.StreamClosedError:
            passage.abort()
            return
        await passage.tunnel(stream)

    def on_connection_close(self) -> None:
        """Let the program go with the browser."""
        super().on_connection_close()
        if self._passage is not None:
            self._passage.abort()

    def on_finish(self) -> None:
        """Leave no connection behind."""
        super().on_finish()
        if self._passage is not None and self._answering is not None:
            self._passage.abort()

    def write_error(self, status_code: int, **details: Any) -> None:
        """Say what is wrong, as a page to a person, as JSON to a program."""
        _, error, _ = details.get("exc_info", (None, None, None))
        if isinstance(error, DstackError):
            self.set_status(status_of(error))
            said = refusal(error)
        else:
            words = getattr(error, "log_message", None) or self._reason
            said = {"message": words, "hint": None, "code": "refused"}
        if "text/html" in self.request.headers.get("Accept", ""):
            self.set_header("Content-Type", "text/html; charset=UTF-8")
            self.finish(_page(str(said["message"]), said["hint"]))
        else:
            self.set_header("Content-Type", "application/json")
            self.finish(json.dumps(said))

    def log_exception(self, kind: Any, error: Any, traceback: Any) -> None:
        """Log what was not foreseen; the rest is said to who asked."""
        if not isinstance(error, DstackError):
            super().log_exception(kind, error, traceback)

    # --- for those that know the places ------------------------------------------------------

    def _rest(self, *parts: str) -> tuple[str, str | None]:
        """Return the prefix of the place below *parts*, and path and query there.

        None for those where the slash after the prefix is missing: the browser is sent there.
        """
        prefix = url_path_join(self.settings["base_url"], NAMESPACE, *parts)
        target = (self.request.uri or "")[len(prefix) :]
        tokens = [self.identity_provider.token if self.identity_provider else ""]
        if self.token_authenticated:
            tokens += self.get_query_arguments("token")
        target = without_token(target, tokens)
        if target.startswith("/"):
            return prefix, target
        self.redirect(f"{prefix}/{target}", status=307)
        return prefix, None

    @property
    def _login_cookie(self) -> str:
        provider = self.identity_provider
        return provider.get_cookie_name(self) if hasattr(provider, "get_cookie_name") else ""


class PortHandler(ProxyHandler):
    """`ports/<run>/<port>/…`: a task's forwarded port on this computer."""

    async def _find(self) -> Destination | None:
        run, port = self.path_args
        prefix, target = self._rest("ports", run, port)
        if target is None:
            return None
        local = await in_thread(lambda: _local_port(session().client(start=False), run, int(port)))
        return Destination(("127.0.0.1", local), target, prefix, login_cookie=self._login_cookie)


def _local_port(client: Client, name: str, port: int) -> int:
    """Return where the run's *port* is on this computer; only a living run's, and its own."""
    view = client.run(name)
    if view.finished or view.job is None or view.job.finished:
        raise Conflict(
            f"Run {name!r} does not run: it is {view.status}.",
            hint="Start it again, and open its port then.",
        )
    if is_service(view):
        raise NotFound(f"Run {name!r} is a service: open it as one.")
    for route in view.job.routes:
        if route.container_port == port:
            return route.local_port
    known = ", ".join(str(route.container_port) for route in view.job.routes)
    raise NotFound(
        f"Run {name!r} has no port {port}.",
        hint=f"It has {known}." if known else "Give it one: `ports: [8080]`.",
    )


class GatewayHandler(ProxyHandler):
    """What the gateway answers: the token is put in here, and never leaves this computer."""

    async def _gateway(self) -> tuple[int, str]:
        def ask() -> tuple[int, str]:
            client = session().client(start=False)
            port = client.gateway().port
            if port is None:
                raise Refused(
                    "No gateway runs yet: it is started with the first service.",
                    hint="Start one: %%dstack service, and its configuration below.",
                )
            return port, client.token()

        return await in_thread(ask)


class ServiceHandler(GatewayHandler):
    """`services/<run>/…`: a service."""

    async def _find(self) -> Destination | None:
        (run,) = self.path_args
        prefix, target = self._rest("services", run)
        if target is None:
            return None
        port, token = await self._gateway()
        host = f"{run}.localhost:{port}"
        return Destination(
            ("127.0.0.1", port), target, prefix, host, token, login_cookie=self._login_cookie
        )


class ModelsHandler(GatewayHandler):
    """`models/v1/…`: the models' OpenAI interface."""

    async def _find(self) -> Destination | None:
        prefix, target = self._rest("models", "v1")
        if target is None:
            return None
        if climbs(target):
            raise web.HTTPError(400, "The path leads out of the models' interface.")
        port, token = await self._gateway()
        host = f"127.0.0.1:{port}"
        return Destination(
            ("127.0.0.1", port), f"/v1{target}", prefix, host, token, self._login_cookie
        )


def _looked_at(task: asyncio.Task[None]) -> None:
    """Look at how *task* ended: whoever waits for it may have gone before."""
    if not task.cancelled():
        task.exception()


def _page(message: str, hint: str | None) -> str:
    more = f"<p>{xhtml_escape(hint)}</p>" if hint else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>dstack</title></head><body><h1>{xhtml_escape(message)}</h1>{more}</body></html>"
    )


_NAME = r"([a-z][a-z0-9-]{1,40})"

#: What answers which path below the namespace.
PROXIES: list[tuple[str, type[ProxyHandler]]] = [
    (rf"ports/{_NAME}/(\d{{1,5}})(?:/.*)?", PortHandler),
    (rf"services/{_NAME}(?:/.*)?", ServiceHandler),
    (r"models/v1(?:/.*)?", ModelsHandler),
]
