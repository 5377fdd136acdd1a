"""The offers table, as far as Python goes: what a choice does, once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dstack_engine.errors import Conflict
from dstack_jupyter.widgets.offers import ChoiceState, OffersView
from tests.widgets.samples import LOCAL, a_plan, an_offer

CLOUD = an_offer(2, price=3.1)
PATIENCE = 10.0


def a_view() -> tuple[OffersView, list[Sequence[str]]]:
    """A table of two offers, and what was submitted from it."""
    submitted: list[Sequence[str]] = []
    view = OffersView(a_plan(LOCAL, CLOUD), title="train")
    view.on_submit(submitted.append)
    return view, submitted


def test_a_choice_is_submitted_in_the_tables_order_and_only_once() -> None:
    view, submitted = a_view()
    assert view.submit([CLOUD.id, LOCAL.id, "unknown"])
    assert not view.submit([CLOUD.id])
    assert not view.cancel()
    assert submitted == [(LOCAL.id, CLOUD.id)]
    assert view.state == ChoiceState.SUBMITTED


def test_two_clicks_at_once_submit_once() -> None:
    view, submitted = a_view()
    begin = threading.Barrier(8)

    def click() -> None:
        begin.wait(PATIENCE)
        view.submit()

    clicks = [threading.Thread(target=click) for _ in range(8)]
    for one in clicks:
        one.start()
    for one in clicks:
        one.join(PATIENCE)
    assert submitted == [()]


def test_the_pages_message_submits_without_holding_the_kernel_up() -> None:
    view = OffersView(a_plan(LOCAL, CLOUD))
    go, done = threading.Event(), threading.Event()

    def slowly(_ids: Sequence[str]) -> None:
        assert go.wait(PATIENCE)
        done.set()

    view.on_submit(slowly)
    view._heard(view, {"type": "submit", "ids": [LOCAL.id]}, [])
    go.set()
    assert done.wait(PATIENCE)
    assert view.selected == [LOCAL.id]


def test_only_offers_that_are_not_there_submit_nothing() -> None:
    view, submitted = a_view()
    assert not view.submit(["elsewhere"])
    assert (submitted, view.state) == ([], ChoiceState.CHOOSING)


def test_a_refused_submission_says_why_and_may_be_tried_again() -> None:
    view, _ = a_view()
    taken = Conflict("port 8000 is taken", hint="Choose another with -p")
    failures = [taken]

    def submit(_ids: Sequence[str]) -> None:
        if failures:
            raise failures.pop()

    view.on_submit(submit)
    assert not view.submit()
    assert view.state == ChoiceState.FAILED
    assert view.message == "port 8000 is taken\nChoose another with -p"
    assert view.submit()


def test_cancelled_nothing_is_submitted_any_more() -> None:
    view, submitted = a_view()
    cancelled: list[bool] = []
    view.on_cancel(lambda: cancelled.append(True))
    assert view.cancel()
    assert not view.submit()
    assert (submitted, cancelled) == ([], [True])


def test_the_table_is_readable_where_there_are_no_widgets() -> None:
    view, _ = a_view()
    bundle, _ = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "eu-west-2" in str(bundle["text/plain"])
    assert "<caption" in str(bundle["text/html"])
    assert repr(view) == "<offers for train: 2, choosing>"
