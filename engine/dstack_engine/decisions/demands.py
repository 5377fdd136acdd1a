"""One thing that a run demands of an offer, with the sentence for an offer that fails it. Pure.

`requirements` and `ownership` make them; `placement` runs them over whole catalogs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from dstack_engine.records.offers import Offer

READ_SHAPE = attrgetter("shape")
READ_PRICE = attrgetter("price")

#: What is read of offers and compared by identity: hashing it would cost more than it saves.
READ_BY_IDENTITY = frozenset({READ_SHAPE})


@dataclass(frozen=True)
class Demand:
    """One thing that an offer must satisfy."""

    #: What is asked, to count by: ``asks 4 CPUs``, ``max_price is $2.00``.
    asked: str
    #: What the demand looks at, the same object for all demands that look at the same.
    read: Callable[[Offer], Any]
    #: Whether what was read satisfies the demand.
    meets: Callable[[Any], bool]
    #: The sentence for an offer that does not.
    reason: Callable[[Offer], str]
