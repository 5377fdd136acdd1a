"""A plain page with a real widget on it and a model that is only a note-book of what was said."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from playwright.sync_api import Page, Route

from dstack_jupyter.widgets.output import Message

ADDRESS = "http://localhost:8/"
_LIGHT = (
    "--jp-ui-font-color1:#212121;--jp-ui-font-color2:#616161;--jp-layout-color1:#fff;"
    "--jp-layout-color2:#f5f5f5;--jp-border-color2:#e0e0e0;--jp-brand-color1:#1976d2"
)
_DARK = (
    "--jp-ui-font-color1:#fff;--jp-ui-font-color2:#bdbdbd;--jp-layout-color1:#111;"
    "--jp-layout-color2:#212121;--jp-border-color2:#424242;--jp-brand-color1:#64b5f6"
)
_MODEL = """
class Model {
  constructor(state) { this.state = state; this.listeners = []; this.sent = []; this.saved = 0; }
  get(name) { return this.state[name]; }
  set(name, value) { this.state[name] = value; }
  save_changes() { this.saved += 1; }
  send(content) { this.sent.push(content); }
  on(name, call) { this.listeners.push([name, call]); }
  off(name, call) { this.listeners = this.listeners.filter((l) => l[0] !== name || l[1] !== call); }
  tell(name, ...values) {
    for (const [wanted, call] of [...this.listeners]) if (wanted === name) call(...values);
  }
  change(name, value) { this.state[name] = value; this.tell(`change:${name}`); }
  arrive(content, payload) {
    const bytes = Uint8Array.from(atob(payload), (c) => c.charCodeAt(0));
    this.tell("msg:custom", content, payload ? [new DataView(bytes.buffer)] : []);
  }
}
import * as module from "/widget.js";
window.module = module;
window.model = new Model(JSON.parse(document.getElementById("state").textContent));
window.open_view = (el) => module.default.render({ model: window.model, el });
module.default.initialize?.({ model: window.model });
window.close_view = open_view(document.getElementById("cell"));
window.ready = true;
"""


@dataclass
class WidgetPage:
    """A page that shows a widget; `posted` are the requests that it made."""

    page: Page
    posted: list[tuple[str, Mapping[str, str], object]] = field(default_factory=list)
    #: What the Jupyter server answers; None for a page without one.
    answer: int | None = None

    def show(
        self, module: str, css: str, state: Mapping[str, object], *, dark: bool = False
    ) -> None:
        """Open the page with a widget in *state*."""
        self.page.route("**/*", lambda route: self._serve(route, module, css, state, dark))
        self.page.goto(ADDRESS)
        self.page.wait_for_function("window.ready")

    def change(self, name: str, value: object) -> None:
        """Let a trait have a new value, as if the kernel had set it."""
        self.page.evaluate("([name, value]) => model.change(name, value)", [name, value])

    def arrive(self, message: Message | Mapping[str, object]) -> None:
        """Let a message of the kernel come."""
        content, payload = message, b""
        if isinstance(message, Message):
            content, payload = dict(message.content), message.payload
        encoded = base64.b64encode(payload).decode()
        self.page.evaluate("([content, bytes]) => model.arrive(content, bytes)", [content, encoded])

    @property
    def sent(self) -> list[object]:
        """What the widget has said to the kernel."""
        sent = self.page.evaluate("model.sent")
        assert isinstance(sent, list)
        return sent

    def _serve(
        self, route: Route, module: str, css: str, state: Mapping[str, object], dark: bool
    ) -> None:
        request = route.request
        if request.method == "POST":
            self.posted.append((request.url, request.headers, request.post_data_json))
            route.fulfill(status=self.answer or 404, json={})
        elif request.url.endswith("/widget.js"):
            route.fulfill(body=module, content_type="text/javascript")
        else:
            route.fulfill(body=self._html(css, state, dark), content_type="text/html")

    def _html(self, css: str, state: Mapping[str, object], dark: bool) -> str:
        config = json.dumps({"baseUrl": "/user/me/", "token": "t0k3n"})
        jupyter = f'<script id="jupyter-config-data" type="application/json">{config}</script>'
        data = json.dumps(state).replace("<", "\\u003c")
        return (
            f'<!doctype html><meta charset="utf-8"><style>{css}</style>'
            f'<body style="{_DARK if dark else _LIGHT};background:var(--jp-layout-color1)">'
            f"{jupyter if self.answer else ''}"
            f'<div id="cell"></div><script id="state" type="application/json">{data}</script>'
            f'<script type="module">{_MODEL}</script>'
        )
