"""Fakes of the engine's contracts, for its own tests and for those who write a backend or a host.

Deterministic: nothing is random, no time passes but `FakeClock`'s, and every failure is arranged
beforehand. `FakeHost` and `FakeBackend` pass the same contract suites as the real ones.
"""

from dstack_engine.testing.backends import FakeBackend
from dstack_engine.testing.conditions import NOON, Failures, FakeClock
from dstack_engine.testing.gateways import FakeGatewayLink
from dstack_engine.testing.hosts import FakeContainer, FakeHost, FakeMachine
from dstack_engine.testing.machines import FakeMachines

__all__ = [
    "NOON",
    "Failures",
    "FakeBackend",
    "FakeClock",
    "FakeContainer",
    "FakeGatewayLink",
    "FakeHost",
    "FakeMachine",
    "FakeMachines",
]
