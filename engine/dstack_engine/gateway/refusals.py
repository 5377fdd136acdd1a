"""The gateway's own answers: what it refuses, in the shape that clients of OpenAI read.

Each carries `X-Dstack-Gateway: <code>`, so that a reader can tell our 503 from a replica's. Called
by everything in the gateway that answers a request itself.
"""

from __future__ import annotations

import json
import math

from aiohttp import web

#: Tells the gateway's own answers from a replica's; its value is the error's code.
MARK = "X-Dstack-Gateway"

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def refusal(
    status: int,
    code: str,
    message: str,
    *,
    retry_after: float | None = None,
    close: bool = False,
) -> web.Response:
    """Return the answer that tells *message*.

    *retry_after* is in seconds; *close* ends the connection.
    """
    headers = {MARK: code, "Server": "dstack-gateway"}
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="dstack"'
    answer = web.Response(
        status=status,
        body=error_body(status, code, message),
        content_type="application/json",
        headers=headers,
    )
    if close:
        answer.force_close()
    return answer


def error_body(status: int, code: str, message: str) -> bytes:
    """Return the JSON of an error, as OpenAI's clients read it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}).encode()
