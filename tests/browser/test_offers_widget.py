"""The offers table in a real browser, on a plain page: sort, filter, choose, submit once."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from dstack_engine.records.offers import Offer
from dstack_jupyter.widgets.offers import OffersView
from tests.widgets.page import WidgetPage
from tests.widgets.samples import LOCAL, a_plan, an_offer

pytestmark = pytest.mark.browser

SPOT = an_offer(1, price=9.5, gpus=4, spot=True)
SMALL = an_offer(2, price=10.0, gpus=1)
BIG = an_offer(3, price=98.0, gpus=16)
NAMES = (
    "title",
    "offers",
    "summary",
    "remarks",
    "refused_title",
    "refusals",
    "selected",
    "state",
    "message",
)


def a_table(page: Page, *offers: Offer, refused: int = 2) -> WidgetPage:
    """Open a page with a table of *offers*."""
    view = OffersView(a_plan(*offers, refused=refused), title="train")
    shown = WidgetPage(page)
    state = {name: getattr(view, name) for name in NAMES}
    shown.show(str(OffersView._esm), str(OffersView._css), state)
    return shown


def numbers(page: Page) -> list[str]:
    """The numbers of the rows in sight, from the top."""
    return page.locator("tbody tr:visible td:nth-child(2)").all_inner_texts()


def heading(page: Page, name: str) -> Locator:
    return page.get_by_role("columnheader", name=name)


def test_it_is_a_table_with_a_caption_sorted_by_any_column(page: Page) -> None:
    a_table(page, LOCAL, SPOT, SMALL, BIG)
    expect(page.get_by_role("table", name="Offers for train")).to_be_visible()
    expect(heading(page, "#")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name="Price").click()
    assert numbers(page) == ["1", "2", "3", "4"]
    page.get_by_role("button", name="Price").click()
    expect(heading(page, "Price")).to_have_attribute("aria-sort", "descending")
    assert numbers(page) == ["4", "3", "2", "1"]
    page.get_by_role("button", name="Resources").click()
    assert numbers(page) == ["1", "3", "2", "4"]


def test_the_filter_takes_several_words_and_says_how_many_are_left(page: Page) -> None:
    a_table(page, LOCAL, SPOT, SMALL, BIG)
    page.get_by_label("Filter").fill("h100 SPOT")
    assert numbers(page) == ["2"]
    expect(page.get_by_text("1 of 4 offers")).to_be_visible()
    page.get_by_label("Filter").fill("")
    expect(page.get_by_text("4 offers that fit.")).to_be_visible()


def test_any_that_fits_is_one_click_and_a_double_click_submits_once(page: Page) -> None:
    shown = a_table(page, LOCAL, SPOT)
    page.get_by_role("button", name="Submit on any that fits").dblclick()
    assert shown.sent[1:] == [{"type": "submit", "ids": []}]
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    expect(page.get_by_role("checkbox").first).to_be_disabled()


def test_several_are_chosen_by_keyboard_and_submitted_in_the_plans_order(page: Page) -> None:
    shown = a_table(page, LOCAL, SPOT, SMALL, BIG)
    for name in ("Choose offer 3", "Choose offer 1"):
        page.get_by_role("checkbox", name=name).focus()
        page.keyboard.press("Space")
    submit = page.get_by_role("button", name="Submit on the 2 chosen")
    submit.focus()
    page.keyboard.press("Enter")
    assert shown.sent[1:] == [{"type": "submit", "ids": [LOCAL.id, SMALL.id]}]
    assert page.evaluate("model.get('selected')") == [LOCAL.id, SMALL.id]


def test_a_refusal_is_told_and_the_choice_is_open_again(page: Page) -> None:
    shown = a_table(page, LOCAL, SPOT)
    page.get_by_role("button", name="Submit").click()
    shown.change("state", "submitted")
    shown.change("message", "Submitting train …")
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    shown.change("state", "failed")
    shown.change("message", "port 8000 is taken")
    expect(page.get_by_text("port 8000 is taken")).to_be_visible()
    page.get_by_role("button", name="Submit").click()
    assert len(shown.sent) == 3


def test_a_kernel_that_does_not_answer_is_spoken_of(page: Page) -> None:
    page.clock.install()
    a_table(page, LOCAL)
    page.get_by_role("button", name="Cancel").click()
    page.clock.run_for(3_000)
    expect(page.get_by_text("The kernel has not answered yet")).to_be_visible()


def test_refusals_are_behind_a_disclosure_and_open_when_nothing_fits(page: Page) -> None:
    a_table(page, LOCAL, refused=3)
    reason = page.get_by_text("this computer has no GPU").first
    expect(reason).to_be_hidden()
    page.get_by_text("3 refused — why").click()
    expect(reason).to_be_visible()

    a_table(page)
    expect(page.get_by_text("No offer fits.")).to_be_visible()
    expect(reason).to_be_visible()
    expect(page.get_by_role("button", name="Submit")).to_be_hidden()
