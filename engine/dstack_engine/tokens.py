"""The user's token for services and models: one per home, made once, in a file of its own (0600).

The engine makes it and tells the gateway its digest; the notebook and the terminal read it. It is
never an argument of a program, and never in a log.
"""

from __future__ import annotations

import hashlib
import os
import secrets

from dstack_engine.errors import NotFound
from dstack_engine.home import Home

#: Letters of a token are URL-safe; it carries 256 bits of chance.
_BYTES = 32


def make_token(home: Home) -> str:
    """Return the home's token; make it where there is none yet."""
    try:
        return read_token(home)
    except NotFound:
        pass
    draft = home.token.with_name(f"{home.token.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as writer:
        writer.write(f"{secrets.token_urlsafe(_BYTES)}\n")
        writer.flush()
        os.fsync(writer.fileno())
    draft.replace(home.token)  # whole or not at all, also where the computer goes down now
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
