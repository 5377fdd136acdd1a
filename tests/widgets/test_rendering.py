"""What is shown where there is no widget."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from dstack_engine.records.events import Event, Progress, Stream
from dstack_engine.records.findings import Finding
from dstack_engine.records.jobs import JobStatus
from dstack_engine.records.offers import RefusalCount
from dstack_engine.records.runs import RunReason, RunStatus
from dstack_jupyter.rendering.events import events_html, events_text
from dstack_jupyter.rendering.findings import findings_html, findings_text
from dstack_jupyter.rendering.logs import log_html, log_text
from dstack_jupyter.rendering.offers import offers_html, offers_text
from dstack_jupyter.rendering.quantities import duration_text, hourly_text, money_text, size_text
from dstack_jupyter.rendering.runs import RunCopy, runs_html, runs_text
from dstack_jupyter.rendering.steps import StepState, sentence_of, steps_of
from dstack_jupyter.terminal import LogScreen
from tests.widgets.samples import LOCAL, NOON, a_job, a_plan, a_run, an_offer

EVIL = "<img src=x onerror=alert(1)>\"'&\x1b[31m"


class Balanced(HTMLParser):
    """Fails on elements that are not closed, and gathers the names of all."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (192, "3m 12s"), (3600, "1h"), (200_000, "2d 7h"), (-5, "0s")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text


def test_money_and_sizes() -> None:
    dollars = [money_text(amount) for amount in (0, 3.1, 0.0042, 1234.5, 0.00001)]
    assert dollars == ["$0", "$3.10", "$0.0042", "$1,234.50", "<$0.0001"]
    assert [hourly_text(amount) for amount in (0, 98.32)] == ["$0", "$98.32/h"]
    assert [size_text(gb) for gb in (0.5, 8, 1.5, 1536)] == ["512MB", "8GB", "1.5GB", "1.5TB"]


def test_offers_stand_in_aligned_columns_with_the_refusals_below() -> None:
    text = offers_text(a_plan(LOCAL, an_offer(2, price=98.32, gpus=8, spot=True)))
    rows = text.splitlines()[:3]
    assert rows[0].split() == ["#", "BACKEND", "REGION", "INSTANCE", "RESOURCES", "SPOT", "PRICE"]
    assert len({len(row) for row in rows}) == 1
    assert "\x1b" not in text
    assert text.endswith("local (docker): asks 24GB of GPU memory; this computer has no GPU")


def test_over_a_large_catalog_reasons_are_counted() -> None:
    text = offers_text(a_plan(refused=41_000))
    assert "No offer fits." in text
    assert "41,000 offers: asks 24GB of GPU memory; this computer has no GPU" in text
    assert len(text.splitlines()) < 12


def test_every_html_is_closed_and_escaped() -> None:
    offer = replace(LOCAL, region=EVIL, remarks=(EVIL,))
    view = a_run(RunStatus.FAILED)
    view = replace(view, jobs=(replace(view.jobs[0], detail=EVIL, offer=offer),))
    screen = LogScreen()
    screen.feed(Stream.STDOUT, EVIL.encode())
    plan = replace(a_plan(offer), refused_by=(RefusalCount(EVIL, 1),), remarks=(EVIL,))
    for html in (
        offers_html(plan),
        RunCopy(view, NOON, screen=screen).html(),
        runs_html([view], NOON),
        events_html([Event(1, NOON, view.jobs[0])]),
        findings_html([Finding(False, EVIL, EVIL, EVIL)]),
    ):
        seen = Balanced(html).seen
        assert not seen & {"img", "script", "style"}
        assert "&lt;img" in html


def test_text_never_carries_control_characters_of_others() -> None:
    view = a_run(RunStatus.FAILED)
    view = replace(view, jobs=(replace(view.jobs[0], detail=EVIL),))
    finding = findings_text([Finding(False, EVIL, EVIL, EVIL)])
    for text in (RunCopy(view, NOON).text(), runs_text([view], NOON), finding):
        assert "\x1b" not in text


@pytest.mark.parametrize("status", list(RunStatus))
def test_a_run_of_every_status_is_shown(status: RunStatus) -> None:
    view = a_run(status)
    now = NOON + timedelta(minutes=1)
    assert "wet-fox-1" in RunCopy(view, now).text()
    Balanced(RunCopy(view, now).html())
    assert [step.label for step in steps_of(view)][:4] == [
        "Submitted",
        "Provisioning",
        "Pulling",
        "Running",
    ]


def test_a_failed_run_says_why_for_how_long_and_at_what_cost() -> None:
    text = RunCopy(a_run(RunStatus.FAILED), NOON + timedelta(hours=5)).text()
    assert text.splitlines()[:2] == [
        "✕ wet-fox-1  failed  1m · $0.06 · 2026-11-21 12:01:00 UTC",
        "  wet-fox-1 ended with an error (exit code 3).",
    ]


def test_a_run_that_never_started_skipped_its_steps() -> None:
    view = a_run(RunStatus.FAILED)
    job = replace(view.jobs[0], started_at=None, placed_at=None, offer=None)
    states = [step.state for step in steps_of(replace(view, jobs=(job,)))]
    done, skipped = StepState.DONE, StepState.SKIPPED
    assert states == [done, skipped, skipped, skipped, done]


def test_progress_is_told_in_the_current_step_of_its_own_job() -> None:
    view = a_run(job=a_job(JobStatus.PULLING), status=RunStatus.PROVISIONING)
    progress = Progress(view.jobs[0].id, "pull", 0.42, "python:3.12")
    assert steps_of(view, progress)[2].text == "42 % python:3.12"
    assert steps_of(view, replace(progress, job="another"))[2].text == ""


def test_a_run_that_waits_says_what_for_and_one_stopped_says_by_whom() -> None:
    assert sentence_of(a_run(RunStatus.SUBMITTED)) == "waits for 4 CPUs: dry-cat-2 holds them"
    view = a_run(RunStatus.TERMINATED)
    run = replace(view.run, reason=RunReason.STOPPED_BY_USER)
    assert sentence_of(replace(view, run=run, jobs=())) == "wet-fox-1 was stopped by its user."


def test_the_last_lines_of_output_keep_their_colours_and_say_what_is_missing() -> None:
    screen = LogScreen()
    screen.feed(Stream.STDOUT, b"".join(b"\x1b[31mline %d\x1b[0m\n" % n for n in range(10)))
    html = log_html(screen, 2)
    assert re.findall(r'<span style="color:#\w+">(line \d)</span>', html) == ["line 8", "line 9"]
    assert log_text(screen, 2) == "… 8 earlier lines are not shown here\nline 8\nline 9"
    assert log_html(LogScreen()) == ""


def test_lists_of_nothing_say_so() -> None:
    assert runs_text([], NOON) == "No runs."
    assert events_text([]) == "No events."
    assert "No runs." in runs_html([], NOON)


def test_doctor_names_the_problem_and_its_remedy() -> None:
    findings = [Finding(True, "Docker", "answers"), Finding(False, "uv", "is missing", "get uv")]
    assert findings_text(findings).splitlines() == [
        "ok       Docker: answers",
        "problem  uv: is missing",
        "         fix: get uv",
        "1 problem found.",
    ]
