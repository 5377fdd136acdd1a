"""How a living service takes a new configuration: what is refused, renewed, or the same. Pure.

The engine asks when a service is submitted. Where its replicas are to run otherwise, its deployment
grows by one, and `decisions.services` replaces them one after another.
"""

from __future__ import annotations

from dataclasses import replace

from dstack_engine.decisions.services import first_state
from dstack_engine.errors import Conflict, Refused
from dstack_engine.records.runs import Run, RunStatus
from dstack_engine.spec.configurations import Runnable, ServiceConfiguration

#: What says nothing of how a replica runs: a change of it needs no new one.
_OUTSIDE = frozenset(
    {"name", "replicas", "scaling", "auth", "model", "probes", "rate_limits", "https", "gateway"}
)


def refuse_unsupported(wanted: Runnable) -> None:
    """Raise `Refused` for what is understood and planned, but cannot be started yet."""
    if wanted.type == "dev-environment":
        raise Refused(
            "This version runs tasks and services; a dev-environment is understood and planned, "
            "but cannot be started yet.",
        )
    if isinstance(wanted, ServiceConfiguration) and isinstance(wanted.gateway, str):
        raise Refused(
            f"There is no gateway {wanted.gateway!r}: services are published by the gateway of "
            "this computer.",
            hint="Leave `gateway` out.",
        )


def renew(run: Run, wanted: Run, *, offers_named: bool) -> Run | None:
    """Return the living service *run* with what *wanted*, a submission of its name, says.

    The same run where nothing differs. Its replicas are replaced only where they would run
    otherwise. None where *run* is no living service, so that the name is taken or free as ever.
    Raises `Conflict` while it is being stopped.
    """
    before, after = run.configuration, wanted.configuration
    both = isinstance(before, ServiceConfiguration) and isinstance(after, ServiceConfiguration)
    if not both or run.finished:
        return None
    if run.stop_requested_at is not None or run.status is RunStatus.TERMINATING:
        raise Conflict(
            f"Service {run.name!r} is being stopped.", hint="Submit it again when it has ended."
        )
    assert isinstance(before, ServiceConfiguration)
    assert isinstance(after, ServiceConfiguration)
    offers = wanted.offers if offers_named else run.offers
    alike = (
        _runs_alike(before, after)
        and (run.files, run.environment) == (wanted.files, wanted.environment)
        and [offer.id for offer in run.offers] == [offer.id for offer in offers]
    )
    if alike and before == after:
        return run
    state = run.service or first_state(after)
    if not alike:
        state = replace(state, deployment=state.deployment + 1, resting=())
        offers = wanted.offers
    return replace(
        run,
        configuration=after,
        service=state,
        offers=offers,
        files=wanted.files,
        project=wanted.project,
        environment=wanted.environment,
    )


def _runs_alike(one: ServiceConfiguration, other: ServiceConfiguration) -> bool:
    keys = type(one).model_fields.keys() - _OUTSIDE
    return all(getattr(one, key) == getattr(other, key) for key in keys)
