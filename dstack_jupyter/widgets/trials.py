"""The try-it box: what a page asks a service or a model through the kernel, and the answers.

The page holds no token and may not be on this computer, so the kernel asks for it, in a thread for
each question. Called by `widgets.service`; answers go out at the card's pace.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from dstack_engine.errors import DstackError, Refused
from dstack_jupyter.gateway import Answer, Cancelled, Gateway, Wish

logger = logging.getLogger(__name__)

#: What one card has under way at once, and how much a page may ask, in characters.
MAX_UNDER_WAY = 4
MAX_PATH = 2_000
MAX_MESSAGES = 400
MAX_TALK = 400_000
#: Headers of an answer that are shown.
MAX_HEADERS = 60

_ROLES = frozenset({"system", "user", "assistant"})

Said = dict[str, object]


class Trials:
    """The questions of one card's pages. Thread-safe."""

    def __init__(self, gateway: Gateway, run: str, model: str | None, ring: Callable[[], None]):
        """Make the box of the service *run*; *ring* is called when there is something to take."""
        self._gateway = gateway
        self._run = run
        self._model = model
        self._ring = ring
        self._lock = threading.Lock()
        self._under_way: dict[str, Wish] = {}
        self._said: list[Said] = []

    def hear(self, content: Mapping[str, object]) -> bool:
        """Take what a page asks; return whether it was meant for the box."""
        kind, identity = content.get("type"), content.get("id")
        if not isinstance(identity, str) or len(identity) > 40:
            return False
        match kind:
            case "try":
                self._begin(identity, lambda wish: self._get(identity, content.get("path"), wish))
            case "try-chat":
                messages = content.get("messages")
                self._begin(identity, lambda wish: self._chat(identity, messages, wish))
            case "try-stop":
                self._cancel(identity)
            case _:
                return False
        return True

    def take(self) -> list[Said]:
        """Return what is to be said to the pages, pieces of one answer joined."""
        with self._lock:
            said, self._said = self._said, []
        joined: list[Said] = []
        for message in said:
            last = joined[-1] if joined else {}
            if message["type"] == last.get("type") == "try-piece" and message["id"] == last["id"]:
                last["text"] = f"{last['text']}{message['text']}"
            else:
                joined.append(dict(message))
        return joined

    def close(self) -> None:
        """End every question."""
        with self._lock:
            wishes = list(self._under_way.values())
        for wish in wishes:
            wish.cancel()

    def _begin(self, identity: str, work: Callable[[Wish], None]) -> None:
        wish = Wish()
        with self._lock:
            room = len(self._under_way) < MAX_UNDER_WAY and identity not in self._under_way
            if room:
                self._under_way[identity] = wish
        if not room:
            self._end(identity, "There are questions enough under way; wait for their answers.")
            return
        self._say({"type": "try-begun", "id": identity})
        threading.Thread(
            target=self._work, args=(identity, wish, work), name="dstack-trial", daemon=True
        ).start()

    def _work(self, identity: str, wish: Wish, work: Callable[[Wish], None]) -> None:
        error = ""
        try:
            work(wish)
        except Cancelled:
            error = "Stopped."
        except DstackError as problem:
            error = problem.render()
        except Exception:
            logger.exception("the service %s could not be asked", self._run)
            error = "It could not be asked; the kernel's log says why."
        with self._lock:
            self._under_way.pop(identity, None)
        self._end(identity, error)

    def _cancel(self, identity: str) -> None:
        with self._lock:
            wish = self._under_way.get(identity)
        if wish is not None:
            wish.cancel()

    def _get(self, identity: str, path: object, wish: Wish) -> None:
        if not isinstance(path, str) or not path.startswith("/") or len(path) > MAX_PATH:
            raise Refused("A path begins with / and has 2,000 characters at most.")
        if not path.isascii() or not path.isprintable() or " " in path:
            raise Refused(
                "A path has no spaces and no letters beyond ASCII: write %20 and the like."
            )
        answer = self._gateway.get(self._run, path, wish)
        self._say({"type": "try-answer", "id": identity, **_shown(answer, self._gateway.token())})

    def _chat(self, identity: str, messages: object, wish: Wish) -> None:
        if self._model is None:
            raise Refused(f"{self._run} serves no model.")
        for piece in self._gateway.chat(self._model, _read(messages), wish):
            self._say({"type": "try-piece", "id": identity, "text": piece})

    def _end(self, identity: str, error: str) -> None:
        self._say({"type": "try-end", "id": identity, "error": error})

    def _say(self, message: Said) -> None:
        with self._lock:
            self._said.append(message)
        self._ring()


def _read(messages: object) -> list[dict[str, str]]:
    """Return the messages of a page; raise `Refused` for what is none or too much."""
    read = []
    for message in messages if isinstance(messages, list) else ():
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, dict) else (0, 0)
        )
        if role not in _ROLES or not isinstance(content, str):
            raise Refused("A message has a role and a text.")
        read.append({"role": str(role), "content": content})
    if not read:
        raise Refused("There is no question.")
    size = sum(len(message["content"]) for message in read)
    if len(read) > MAX_MESSAGES or size > MAX_TALK:
        raise Refused("The conversation has become too long; begin another.")
    return read


def _shown(answer: Answer, token: str) -> Said:
    kind = {name.lower(): value for name, value in answer.headers}.get("content-type", "")
    size = f"{len(answer.body):,} bytes" + (" and more" if answer.is_cut else "")
    if b"\0" in answer.body or kind.startswith(("image/", "audio/", "video/", "font/")):
        body = f"({size} of {kind or 'no text'})"
    else:
        body = answer.body.decode(errors="replace")
    # A service without `auth` is sent the token as it is, and might say it back.
    headers = [(name, value.replace(token, "•••")) for name, value in answer.headers]
    return {
        "status": answer.status,
        "reason": answer.reason,
        "headers": headers[:MAX_HEADERS],
        "body": body.replace(token, "•••"),
        "cut": answer.is_cut,
        "seconds": answer.seconds,
    }
