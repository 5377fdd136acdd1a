"""The user's token for services and models: one per home, made once, in a file of its own (0600).

The engine makes it and tells the gateway its digest; the notebook and the terminal read it. It is
never an argument of a program, and never in a log.
"""

from __future__ import annotations

import hashlib
import secrets

from dstack_engine.errors import NotFound
from dstack_engine.home import Home, write_private

#: Letters of a token are URL-safe; it carries 256 bits of chance.
_BYTES = 32


def make_token(home: Home) -> str:
    """Return the home's token; make it where there is none yet."""
    try:
        return read_token(home)
    except NotFound:
        pass
    write_private(home.token, f"{secrets.token_urlsafe(_BYTES)}\n".encode(), durable=True)
    return read_token(home)


def read_token(home: Home) -> str:
    """Return the home's token; raise `NotFound` where no engine has made one yet."""
    try:
        token = home.token.read_text().strip()
    except FileNotFoundError:
        token = ""
    if not token:
        raise NotFound(
            "There is no token for services yet.",
            hint="The engine makes it when it starts: %dstack engine start",
        )
    return token


def digest_of(token: str) -> str:
    """Return the SHA-256 of *token* in hex: what the gateway is told in its stead."""
    return hashlib.sha256(token.encode()).hexdigest()
