"""The fleet's card in a real browser, on a plain page: checks, what mends them, a wish to look."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from dstack_engine.records.fleets import FleetView
from dstack_engine.records.instances import InstanceStatus
from dstack_jupyter.widgets.fleet import FleetCard
from dstack_jupyter.widgets.states import fleet_state
from tests.browser.axe import serious_findings
from tests.widgets.page import WidgetPage
from tests.widgets.samples import NO_DOCKER, OLD_TOOLKIT, a_fleet, a_machine

pytestmark = pytest.mark.browser

LOOKING = a_machine(1, InstanceStatus.PENDING)
BROKEN = a_machine(1, InstanceStatus.PROVISIONING, NO_DOCKER, OLD_TOOLKIT)
READY = a_machine(0)


def a_card(page: Page, view: FleetView, *, dark: bool = False) -> WidgetPage:
    """Open a page with the card of *view*."""
    shown = WidgetPage(page)
    state = {"fleet": fleet_state(view, {}), "message": ""}
    shown.show(str(FleetCard._esm), str(FleetCard._css), state, dark=dark)
    return shown


def test_each_check_has_its_sign_and_its_remedy_to_copy(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    a_card(page, a_fleet(READY, BROKEN))
    card = page.get_by_role("group", name="Fleet lab")
    expect(card).to_contain_text("2 machines: 1 not usable, 1 ready")
    good = card.get_by_role("list", name="Checks of lab-0")
    expect(good.get_by_role("listitem")).to_have_count(2)
    bad = card.get_by_role("list", name="Checks of lab-1")
    expect(bad.get_by_role("listitem").nth(0)).to_contain_text("in the way: docker")
    expect(bad.get_by_role("listitem").nth(1)).to_contain_text("worth knowing: toolkit")
    copy = card.get_by_role("button", name="Copy what mends docker on lab-1")
    copy.click()
    expect(copy).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == NO_DOCKER.fix


def test_it_follows_and_a_machine_that_stays_as_it_was_keeps_the_readers_place(page: Page) -> None:
    shown = a_card(page, a_fleet(BROKEN, a_machine(2, InstanceStatus.PENDING)))
    card = page.get_by_role("group", name="Fleet lab")
    copy = card.get_by_role("button", name="Copy what mends toolkit on lab-1")
    copy.focus()
    ready = a_machine(2)
    shown.change("fleet", fleet_state(a_fleet(BROKEN, ready), {"lab-2": ["train"]}))
    expect(card).to_contain_text("runs train")
    expect(copy).to_be_focused()
    expect(card.get_by_role("status").filter(has_text="lab: 2 machines")).to_have_count(1)
    shown.change("fleet", fleet_state(a_fleet(ready), {}))
    expect(card.get_by_role("list", name="Checks of lab-1")).to_have_count(0)
    expect(card.get_by_role("button", name="Look again")).to_be_hidden()
    names = card.locator(".dstack-machine-name").all_inner_texts()
    assert names == ["lab-2"]
    shown.change("fleet", fleet_state(a_fleet(READY, LOOKING, ready), {}))
    assert card.locator(".dstack-machine-name").all_inner_texts() == ["lab-0", "lab-1", "lab-2"]


def test_a_wish_to_look_again_goes_to_the_kernel_and_its_refusal_is_told(page: Page) -> None:
    page.clock.install()
    shown = a_card(page, a_fleet(BROKEN))
    card = page.get_by_role("group", name="Fleet lab")
    card.get_by_role("button", name="Look again").click()
    assert shown.sent == [{"type": "hello"}, {"type": "examine"}]
    page.clock.run_for(3_000)
    expect(card).to_contain_text("The kernel has not answered yet")
    shown.change("message", "No engine runs.")
    expect(card.get_by_text("No engine runs.")).to_be_visible()
    shown.change("fleet", fleet_state(a_fleet(READY), {}))
    expect(card.get_by_text("No engine runs.")).to_have_count(0)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, dark: bool) -> None:
    a_card(page, a_fleet(READY, BROKEN, a_machine(2, InstanceStatus.PENDING)), dark=dark)
    expect(page.get_by_role("group", name="Fleet lab")).to_have_attribute(
        "data-theme", "dark" if dark else "light"
    )
    assert serious_findings(page, ".dstack-fleet") == []
