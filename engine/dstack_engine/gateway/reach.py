"""The way to a replica: choice or hold, then a connection, old or new.

Called by `proxy` and `exchange` for each request.
"""

from __future__ import annotations

from dstack_engine.gateway.counts import Visit
from dstack_engine.gateway.holding import OnWait
from dstack_engine.gateway.replicas import Replica
from dstack_engine.gateway.table import Service
from dstack_engine.gateway.upstream import Connection, pool

#: Methods whose repetition does no harm (RFC 9110, 9.2.2).
IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))
#: Answers by which a replica says that it is not well.
UNWELL = frozenset((502, 503, 504))
#: Replicas tried for one request, as long as none could be connected to.
MOST_TRIES = 3


async def reach(
    service: Service,
    visit: Visit,
    avoid: list[Replica],
    on_wait: OnWait | None = None,
    *,
    repeatable: bool,
    fresh: bool = False,
) -> tuple[Replica, Connection]:
    """Return a replica that has begun a request, and a connection to it.

    One that cannot be connected to is added to *avoid* and another is taken: nothing was sent yet.
    *fresh* asks for a new connection: one that was kept has just been found closed, and the others
    that are kept are likely to be closed as well.
    Raises `NoReplica`, or `OSError` when several refused (`TimeoutError` if they took too long).
    """
    connections = pool()
    why: OSError | None = None
    for _ in range(MOST_TRIES):
        replica = service.choose(avoid)
        if replica is None:
            replica = await service.hold(visit, avoid=avoid, on_wait=on_wait)
        replica.begin()
        address = (replica.host, replica.port)
        connection = None if fresh else connections.take(address, repeatable=repeatable)
        if connection is not None:
            return replica, connection
        try:
            return replica, await connections.connect(address)
        except OSError as error:
            why = error
            replica.end(failed=True, refused=isinstance(error, ConnectionRefusedError))
            avoid.append(replica)
        except BaseException:
            replica.end(failed=False)
            raise
    kind = TimeoutError if isinstance(why, TimeoutError) else OSError
    raise kind(f"No replica of {service.told.run} could be connected to: {why}.")
