"""How many replicas a service is to have, from the load that its gateway saw. Pure.

The run loop asks each second. dstack's rule, `ceil(load / target)` within the range and straight
to it, with four differences that are meant:

* Requests that are held, or still being answered, count as arrivals until they are answered: a
  long stream is load, though nothing arrives.
* A delay means that the load has asked for it all that time, not that the last scaling is so long
  ago: a short lull ends no replica.
* The first replica is started at once, without any delay, when a request comes.
* The last replica is never ended while a request is held or being answered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dstack_engine.records.publication import Load, ServiceReport
from dstack_engine.records.services import ServiceState
from dstack_engine.spec.services import Replicas, Scaling

#: So little beyond a whole number of replicas is a float's error, no load.
_EPSILON = 1e-9


@dataclass(frozen=True)
class Demand:
    """What a service's clients ask of it, over the window of its scaling and now."""

    load: Load
    held: int = 0
    in_flight: int = 0

    @property
    def waiting(self) -> int:
        """Return how many requests are held or being answered now."""
        return self.held + self.in_flight

    @property
    def rate(self) -> float:
        """Return requests a second; those not yet answered count until they are."""
        return (self.load.arrivals + self.load.carried) / self.load.window

    @property
    def concurrency(self) -> float:
        """Return requests under way: on average, or as many as there are now if that is more."""
        return max(self.load.concurrency, float(self.waiting))


def demand_of(report: ServiceReport | None, scaling: Scaling | None) -> Demand | None:
    """Return the demand over the window of *scaling*; None where nothing is known of it."""
    if report is None or scaling is None:
        return None
    load = next((load for load in report.loads if load.window == scaling.window), None)
    return None if load is None else Demand(load, report.held, report.in_flight)


def scale(
    state: ServiceState,
    replicas: Replicas,
    scaling: Scaling | None,
    demand: Demand | None,
    now: datetime,
) -> ServiceState:
    """Return the state with as many replicas `desired` as there are to be from now on.

    Without *demand* (no gateway tells of it) the number stays, within the range.
    """
    clipped = _clip(state.desired, replicas)
    if clipped != state.desired:
        why = f"the configuration says {replicas}"
        return _settle(state, clipped, why, now)
    if scaling is None or demand is None or not replicas.scales:
        return replace(state, above_since=None, below_since=None)
    wanted = _wanted(replicas, scaling, demand)
    if wanted > state.desired:
        return _rise(state, wanted, scaling, demand, now)
    if wanted < state.desired:
        return _fall(state, wanted, scaling, demand, now)
    return replace(state, above_since=None, below_since=None)


def _wanted(replicas: Replicas, scaling: Scaling, demand: Demand) -> int:
    level = demand.rate if scaling.metric == "rps" else demand.concurrency
    wanted = math.ceil(level / scaling.target - _EPSILON)
    if demand.waiting:
        wanted = max(wanted, 1)
    return _clip(wanted, replicas)


def _rise(
    state: ServiceState, wanted: int, scaling: Scaling, demand: Demand, now: datetime
) -> ServiceState:
    since = _since(state.above_since, now)
    if state.desired == 0 or now - since >= timedelta(seconds=scaling.scale_up_delay):
        return _settle(state, wanted, _words(scaling, demand), now)
    return replace(state, above_since=since, below_since=None)


def _fall(
    state: ServiceState, wanted: int, scaling: Scaling, demand: Demand, now: datetime
) -> ServiceState:
    since = _since(state.below_since, now)
    if now - since >= timedelta(seconds=scaling.scale_down_delay):
        return _settle(state, wanted, _words(scaling, demand), now)
    return replace(state, above_since=None, below_since=since)


def _since(begun: datetime | None, now: datetime) -> datetime:
    # A clock that was set back would have us wait until it is there again.
    return now if begun is None or begun > now else begun


def _settle(state: ServiceState, desired: int, why: str, now: datetime) -> ServiceState:
    return replace(
        state,
        desired=desired,
        above_since=None,
        below_since=None,
        scaled_at=now,
        scaled_why=f"{state.desired} → {desired}: {why}",
    )


def _words(scaling: Scaling, demand: Demand) -> str:
    if not demand.waiting and demand.rate == 0:
        return f"no request for {_duration(scaling.scale_down_delay + demand.load.window)}"
    if scaling.metric == "rps":
        level = f"{demand.rate:.3g} requests a second"
    else:
        level = f"{demand.concurrency:.3g} requests under way"
    return f"{level}, {scaling.target:g} for each replica"


def _clip(number: int, replicas: Replicas) -> int:
    return min(max(number, replicas.min), replicas.max)


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds % 60 else f"{seconds // 60} min"
