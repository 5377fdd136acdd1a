"""How a service stands, in words and tables: from the engine's records and the gateway's report."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dstack_engine.records.jobs import JobId, JobReason, JobStatus
from dstack_engine.records.publication import ModelUsage, ReplicaState, ServiceReport
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.services import Rest, Retiring, ServiceState
from dstack_engine.records.updates import GatewayView, ModelView
from dstack_jupyter.failures import ServiceNotReady
from dstack_jupyter.rendering.quantities import seconds_text
from dstack_jupyter.rendering.runs import Traffic, runs_html, runs_text
from dstack_jupyter.rendering.services import (
    ServiceCopy,
    models_html,
    models_text,
    traffic_text,
)
from dstack_jupyter.replicas import does_not_start, is_up, replicas_of, standing_of
from dstack_jupyter.surfaces.terminal import Labels
from tests.widgets.samples import MODEL, NOON, a_replica, a_report, a_run, a_service
from tests.widgets.test_rendering import EVIL, Balanced

PLACE = GatewayView(4180)
SILENT = ServiceReport("chat", "s1")
REST = Rest(0, NOON + timedelta(seconds=8), "exit code 1")


def without_jobs(view: RunView) -> RunView:
    """Return the service before any replica was made."""
    return replace(view, jobs=())


def test_a_service_is_ready_when_all_its_replicas_are() -> None:
    standing = standing_of(a_service(), a_report())
    assert (standing.word, standing.sentence) == ("ready", "3 of 3 replicas are ready")
    assert is_up(a_service(), a_report())


def test_a_replica_that_does_not_answer_its_probe_yet_says_why() -> None:
    report = a_report(ReplicaState.READY, ReplicaState.PROBING)
    probing = replace(report.replicas[1], trouble="connection refused")
    report = replace(report, replicas=(report.replicas[0], probing))
    standing = standing_of(a_service(), report)
    assert (standing.word, standing.sentence) == (
        "starting",
        "1 of 3 replicas are ready: connection refused",
    )
    words = [str(row.word) for row in replicas_of(a_service(), report)]
    assert words == ["ready", "starting", "starting"]
    assert is_up(a_service(), report), "one that answers is enough to go on"


def test_before_the_gateway_has_said_anything_nothing_is_ready() -> None:
    assert standing_of(a_service(), None).word == "starting"
    assert not is_up(a_service(), None)


def test_a_service_without_replicas_sleeps_and_counts_as_up() -> None:
    view = without_jobs(a_service(state=ServiceState(desired=0)))
    assert standing_of(view, None).word == "asleep"
    assert is_up(view, SILENT)
    assert not is_up(view, None), "the gateway has to know of it"
    held = replace(SILENT, held=2)
    assert "is being started for it" in standing_of(view, held).sentence


def test_a_crash_loop_is_told_and_is_not_waited_for() -> None:
    jobs = [a_replica(0, JobStatus.FAILED, attempt=number) for number in (1, 2)]
    view = a_service(*jobs, state=ServiceState(desired=1, resting=(REST,)))
    standing = standing_of(view, SILENT)
    assert (standing.word, standing.sentence) == ("failing", "replica 0 failed: exit code 1")
    assert does_not_start(view, SILENT)
    assert not does_not_start(replace(view, jobs=view.jobs[:1]), SILENT), "once may be bad luck"
    assert ServiceNotReady(view, ["ImportError"]).render() == (
        "chat does not get ready: replica 0 ended with an error (exit code 3).\n  | ImportError\n"
        "It goes on trying; stop it: %dstack stop chat. All it printed: %dstack logs chat"
    )


def test_an_update_is_under_way_until_the_last_old_replica_has_gone() -> None:
    old, new = a_replica(0), a_replica(1, deployment=2)
    state = ServiceState(desired=1, deployment=2)
    view = a_service(old, new, state=state)
    report = a_report(ReplicaState.DRAINING, ReplicaState.READY)
    assert standing_of(view, report).word == "updating"
    assert not is_up(view, report)
    done = a_service(new, state=state)
    assert is_up(done, report)
    failed = [
        replace(a_replica(1, JobStatus.FAILED, attempt=number), deployment=2) for number in (1, 2)
    ]
    stuck = a_service(old, *failed, state=state)
    assert does_not_start(stuck, a_report(ReplicaState.READY))


def test_a_retiring_replica_of_the_same_configuration_is_no_update() -> None:
    retiring = Retiring(JobId("chat-0-2/1"), NOON, JobReason.SCALED_DOWN)
    view = a_service(state=ServiceState(desired=2, retiring=(retiring,)))
    report = a_report(ReplicaState.READY, ReplicaState.READY, ReplicaState.DRAINING)
    assert standing_of(view, report).word == "ready"


def test_why_it_was_scaled_is_said() -> None:
    why = "1 → 3: 25 requests a second, 10 for each replica"
    view = a_service(state=ServiceState(desired=3, scaled_why=why))
    assert standing_of(view, a_report()).sentence == f"3 of 3 replicas are ready ({why})"


def test_the_text_has_addresses_traffic_and_replicas() -> None:
    text = ServiceCopy(a_service(text=MODEL), NOON, a_report(), PLACE).text()
    assert text.splitlines()[:6] == [
        "● chat  ready  0s · $0",
        "  3 of 3 replicas are ready",
        "  address: http://chat.localhost:4180/",
        "  for programs: http://127.0.0.1:4180/services/chat/",
        "  model tiny (OpenAI): http://127.0.0.1:4180/v1",
        "  12 requests/s · p50 14 ms · p95 82 ms · 3 in flight · 1 held for a replica · "
        "1,204 requests · 2 errors",
    ]
    row = "0  ● ready          1       401       1  aws (docker) eu-west-1"
    assert row in text


def test_a_pause_is_counted_down_and_a_stopped_service_says_who_stopped_it() -> None:
    view = a_service(a_replica(0, JobStatus.FAILED), state=ServiceState(desired=1, resting=(REST,)))
    assert "exit code 1; starts again in 8s" in ServiceCopy(view, NOON, SILENT, PLACE).text()
    ended = a_service(a_replica(0, JobStatus.TERMINATED), status=RunStatus.TERMINATED)
    text = ServiceCopy(ended, NOON, a_report(), PLACE).text()
    assert "chat was stopped by its user.\n  It was sent 1,204 requests · 2 errors." in text
    assert "localhost" not in text


def test_what_a_service_says_is_escaped() -> None:
    rest = replace(REST, why=EVIL)
    view = a_service(a_replica(0, JobStatus.FAILED), state=ServiceState(desired=1, resting=(rest,)))
    usage = (ModelUsage(EVIL, "abc"),)
    for html in (
        ServiceCopy(view, NOON, SILENT, PLACE).html(),
        models_html([ModelView(EVIL, (EVIL,), 1, usage)]),
        runs_html([view], NOON, Traffic({}, PLACE)),
    ):
        assert "img" not in Balanced(html).seen
    assert "\x1b" not in ServiceCopy(view, NOON, SILENT, PLACE).text()


def test_the_list_of_runs_shows_services_with_address_and_replicas() -> None:
    traffic = Traffic({"s1": a_report(ReplicaState.READY)}, PLACE)
    heading, service, task = runs_text([a_service(), a_run()], NOON, traffic).splitlines()
    assert heading.split()[:4] == ["NAME", "STATUS", "REPLICAS", "ADDRESS"]
    assert service.split()[:5] == ["chat", "▶", "running", "1/3", "http://chat.localhost:4180/"]
    assert service.endswith("starting: 1 of 3 replicas are ready")
    assert task.split()[3:5] == ["-", "-"]
    assert "ADDRESS" not in runs_text([a_run()], NOON)


def test_models_are_listed_with_their_use_summed_over_tokens() -> None:
    usage = (
        ModelUsage("tiny", "aaaa", 3, 1, 100, 2_000, 1, 0.6, 3.0),
        ModelUsage("tiny", "bbbb", 1, 0, 5, 6, 0, 0.2, 1.0),
    )
    models = [ModelView("tiny", ("chat", "chat-2"), 2, usage), ModelView("other", ("x",), 0)]
    _, tiny, other = models_text(models).splitlines()
    assert tiny.split("  ")[0] == "tiny"
    assert " ".join(tiny.split()) == "tiny chat, chat-2 2 4 1 105 2,006 (1 not counted) 200 ms"
    assert other.endswith("-")
    assert models_text([]) == "No models: no service that runs says `model:`."


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "0.4 ms"), (0.0144, "14 ms"), (2.345, "2.3 s"), (45, "45 s")]
)
def test_short_times_have_the_digits_that_say_something(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_nothing_is_said_of_traffic_that_is_not_known() -> None:
    assert traffic_text(None) == ""


def test_a_terminal_says_of_each_line_which_replica_it_is_from() -> None:
    labels = Labels(a_service())
    pieces = [(1, b"one\ntw"), (1, b"o\n"), (2, b"open"), (0, b"\nlast\n")]
    written = b"".join(labels.put(a_replica(at).container, text) for at, text in pieces)
    assert written == b"[1] one\n[1] two\n[2] open\n[0] \n[0] last\n"
    alone = Labels(a_service(text=MODEL.replace("replicas: 3", "replicas: 1")))
    assert alone.put(a_replica(0).container, b"as it is\n") == b"as it is\n"
